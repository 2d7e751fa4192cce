package input

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

const (
	surveyInterval = time.Second
	// surveyAtEnd is the interval with stop_at_end, which waits for it.
	surveyAtEnd = 100 * time.Millisecond
	// surveyGlances bounds the raw fetches of one survey.
	surveyGlances = 64
	// surveyFailures in a row mean that the source cannot be reached.
	surveyFailures = 3
)

// skip says that a part holds no record from one offset up to another.
type skip struct {
	part     int
	from, to int64
}

// survey looks, once in a while, at partitions that are not at their end and
// yet give no records: a consuming client does not show that it has passed
// control records, aborted transactions, empty batches or a compacted tail.
// Without it a position would stand still in front of them, stop_at_end would
// wait forever, and retention would later seem to have passed the position.
func (r *reader) survey(ctx context.Context) {
	interval := surveyInterval
	if r.stopAt != nil {
		interval = surveyAtEnd
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	before := make([]int64, len(r.at))
	failed := 0
	for {
		for i := range r.at {
			before[i] = r.at[i].Load()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ends, err := r.source.cluster.Offsets(ctx, r.source.end, r.source.names()...)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failed = 0
			r.lookAhead(ctx, before, ends)
		case r.moved(before):
			failed = 0
		default:
			if failed++; failed >= surveyFailures {
				r.fail(fmt.Errorf("source %w", err))
				return
			}
		}
	}
}

// moved tells whether reading has gone on since.
func (r *reader) moved(before []int64) bool {
	for i := range r.at {
		if r.at[i].Load() != before[i] {
			return true
		}
	}
	return r.holding.Load()
}

func (r *reader) lookAhead(ctx context.Context, before []int64, ends map[position.TP]int64) {
	if r.holding.Load() {
		return
	}
	reader := r.source.reader(r.in.conf.committed)
	glances := 0
	for i := range r.at {
		tp := r.gen.Parts[i].Source
		from := before[i]
		if r.at[i].Load() != from || from >= ends[tp] || glances >= surveyGlances {
			continue
		}
		glances++
		to := from
		for to < ends[tp] && ctx.Err() == nil {
			c, err := reader.Glance(ctx, tp, to)
			if err != nil { // the leader may have moved
				if d, err := r.source.cluster.Describe(ctx, r.source.names()...); err == nil {
					reader = r.source.cluster.Reader(d, r.in.conf.committed)
				}
				break
			}
			if c.Next <= to {
				break
			}
			if len(c.Records) > 0 {
				to = max(to, min(c.Records[0].Offset, c.Next))
				break
			}
			to = c.Next
		}
		if to > from {
			r.propose(skip{i, from, to})
		}
	}
}

func (r *reader) propose(s skip) {
	r.mu.Lock()
	r.skips = append(slices.DeleteFunc(r.skips, func(o skip) bool { return o.part == s.part }), s)
	r.mu.Unlock()
	r.interrupt()
}

// applySkips moves past what the survey found empty, unless records of the
// part came meanwhile.
func (r *reader) applySkips() {
	r.mu.Lock()
	skips := r.skips
	r.skips = nil
	r.mu.Unlock()
	for _, s := range skips {
		if r.at[s.part].Load() == s.from {
			r.at[s.part].Store(s.to)
			r.gen.Skip(s.part, s.to)
		}
	}
}
