package input

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/pool"
)

const (
	surveyInterval = time.Second
	// surveyAtEnd is the interval with stop_at_end, which waits for it.
	surveyAtEnd = 100 * time.Millisecond
	// surveyGlances bounds the raw fetches of one survey.
	surveyGlances = 64
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
	stuck := make([]time.Duration, len(r.at))
	for {
		for i := range r.at {
			before[i] = r.at[i].Load()
		}
		since := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		held := r.lookAhead(ctx, before, r.readable())
		if err := r.stalled(before, held, stuck, time.Since(since)); err != nil {
			r.in.pool.Find(func(p *pool.Pool) *pool.Change { return p.Stalled(r.source.index, err) })
			r.fail(leaving{err})
			return
		}
	}
}

// readable is how far there are records to read, per part: to the end, as far
// as the last probe saw it.
func (r *reader) readable() []int64 {
	if r.stopAt != nil {
		return r.stopAt
	}
	ends := r.in.pool.Ends(r.source.index)
	out := make([]int64, len(r.at))
	for i := range out {
		out[i] = ends[r.gen.Parts[i].Source]
	}
	return out
}

// stalled adds up, per part, how long records were waited for that the source
// is known to hold and does not give, and tells if it was too long.
func (r *reader) stalled(before []int64, held []bool, stuck []time.Duration, passed time.Duration) error {
	waiting := r.polling.Load() && !r.holding.Load()
	ends := r.in.pool.Ends(r.source.index)
	for i := range stuck {
		tp := r.gen.Parts[i].Source
		switch at := r.at[i].Load(); {
		case at != before[i] || at >= ends[tp]:
			stuck[i] = 0
		case waiting && held[i]:
			stuck[i] += passed
		}
		if stuck[i] >= r.in.conf.stallTimeout {
			return fmt.Errorf("source %s answers probes and gives no records: partition %s has some up to offset %d, none came from offset %d on for %s", r.source.name, tp, ends[tp], before[i], stuck[i].Round(time.Second))
		}
	}
	return nil
}

// lookAhead glances at the parts that stand still before records, and returns
// which of them hold some there, or do not show.
func (r *reader) lookAhead(ctx context.Context, before, ends []int64) []bool {
	held := make([]bool, len(r.at))
	if r.holding.Load() {
		return held
	}
	ctx, cancel := context.WithTimeout(ctx, r.in.conf.timeout) // a source that hangs is somebody else's to notice
	defer cancel()
	reader := r.source.reader()
	glances := 0
	first := r.glanced
	for k := range r.at {
		i := (first + k) % len(r.at) // another first one each time, so that all have their turn
		tp := r.gen.Parts[i].Source
		from := before[i]
		if r.at[i].Load() != from || from >= ends[i] || glances >= surveyGlances || ctx.Err() != nil {
			continue
		}
		glances++
		r.glanced = i + 1
		to := from
		for to < ends[i] && ctx.Err() == nil {
			c, err := reader.Glance(ctx, tp, to)
			if err != nil { // the leader may have moved
				held[i] = true
				if d, err := r.source.cluster.Describe(ctx, r.source.names()...); err == nil {
					reader = r.source.cluster.Reader(d, r.source.committed)
				}
				break
			}
			if c.Next <= to {
				break
			}
			if len(c.Records) > 0 {
				held[i] = true
				to = max(to, min(c.Records[0].Offset, c.Next))
				break
			}
			to = c.Next
		}
		if to > from {
			r.propose(skip{i, from, to})
		}
	}
	return held
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
