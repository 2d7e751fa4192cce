package input

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

// claim is where a partition is to be read on, and what is known of its records
// so far: what a source must live up to before it is read.
type claim struct {
	tp    position.TP
	next  int64
	pairs []position.Pair
	// known: it was this very log that was read before. If no sample is left
	// there, nothing is in doubt.
	known bool
	// forget is the mark to remove in order to give the position up, if any.
	forget *position.Key
	// why names the ground of the position, for reports.
	why string
}

// unfit is an error that tells why a source must not be read on from the
// position. Another one may do.
type unfit struct {
	state pool.State // Short, Trimmed or Diverged
	stop  *position.Stop
	needs pool.Ends // of Short
	lost  int64     // of Trimmed
}

func (u *unfit) Error() string { return u.stop.Error() }

// note tells the pool.
func (u *unfit) note(p *pool.Pool, i int) *pool.Change {
	why := errors.New(u.stop.Reason)
	switch u.state {
	case pool.Short:
		return p.Short(i, u.needs, why)
	case pool.Trimmed:
		return p.Trimmed(i, u.lost, why)
	}
	return p.Diverged(i, why)
}

func diverged(stop *position.Stop) *unfit { return &unfit{state: pool.Diverged, stop: stop} }

// finding is what comparing one partition with its samples has shown.
type finding struct {
	compared int
	differs  bool
	offset   int64
	relayed  position.Fingerprint
	held     position.Fingerprint
}

// examine tells whether a source can be read on from what is claimed. The
// records relayed last must be there, as far as any are left, and the log must
// reach from the position on. The error is an *unfit if the source is at fault.
// unverified are the partitions of which nothing was left to compare.
func (s *source) examine(ctx context.Context, claims []claim) (unverified []position.TP, err error) {
	found, err := s.compare(ctx, claims)
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		if f.differs {
			return nil, diverged(&position.Stop{
				Reason: fmt.Sprintf("source %s (cluster %s) does not hold the records that were relayed before: partition %s, offset %d has fingerprint %s, relayed was %s", s.name, s.desc.ClusterID, claims[i].tp, f.offset, f.held, f.relayed),
				Cure:   "check its seed_brokers; if another relay uses this relay_id, give each its own; if the source's log was truncated (unclean election, restored backup) or written apart from the others, mirror it anew and restart the relay",
			})
		}
	}
	if err := s.reaches(claims); err != nil {
		return nil, err
	}
	for i, f := range found {
		if f.compared == 0 && len(claims[i].pairs) > 0 && !claims[i].known {
			unverified = append(unverified, claims[i].tp)
		}
	}
	return unverified, nil
}

const (
	// samplesAtMost bounds the records that one examination reads; each
	// partition has at least its last sample compared.
	samplesAtMost = 1024
	// samplesAtOnce are read side by side.
	samplesAtOnce = 16
)

// compare reads the sampled records of all claims.
func (s *source) compare(ctx context.Context, claims []claim) ([]finding, error) {
	found := make([]finding, len(claims))
	most := min(position.MaxPairs, max(1, samplesAtMost/max(1, len(claims))))
	reader := s.reader()
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(samplesAtOnce)
	for i, c := range claims {
		pairs := c.pairs[max(0, len(c.pairs)-most):]
		if len(pairs) > 0 {
			eg.Go(func() (err error) {
				found[i], err = s.comparePart(ctx, reader, c.tp, pairs)
				return err
			})
		}
	}
	return found, eg.Wait()
}

// comparePart compares records with their samples, from the oldest on, up to
// the first that differs.
func (s *source) comparePart(ctx context.Context, reader *kafka.Reader, tp position.TP, pairs []position.Pair) (finding, error) {
	var f finding
	for _, p := range pairs {
		if p.Offset < s.starts[tp] || p.Offset >= s.ends[tp] {
			continue
		}
		rec, err := reader.At(ctx, tp, p.Offset)
		if err != nil {
			return f, err
		}
		if rec == nil { // compacted away
			continue
		}
		f.compared++
		if held := record.Fingerprint(rec); held != p.Fingerprint {
			f.differs, f.offset, f.relayed, f.held = true, p.Offset, p.Fingerprint, held
			return f, nil
		}
	}
	return f, nil
}

// reaches tells whether every claimed position lies within the source's log.
func (s *source) reaches(claims []claim) error {
	needs := pool.Ends{}
	var short, gone []string
	var lost int64
	var forget *position.Key
	for _, c := range claims {
		needs[c.tp] = c.next
		start, end := s.starts[c.tp], s.ends[c.tp]
		if _, ok := s.ends[c.tp]; !ok {
			short = append(short, fmt.Sprintf("it lacks partition %s", c.tp))
			continue
		}
		switch {
		case c.next > end:
			short = append(short, fmt.Sprintf("partition %s ends at offset %d, the relay stands at %d", c.tp, end, c.next))
		case c.next < start:
			gone = append(gone, fmt.Sprintf("partition %s at offsets %d to %d (its log starts at %d)", c.tp, c.next, start-1, start))
			lost += start - c.next
			if forget == nil {
				forget = c.forget
			}
		}
	}
	switch {
	case len(short) > 0:
		return &unfit{state: pool.Short, needs: needs, stop: &position.Stop{
			Reason: fmt.Sprintf("source %s is short of what was relayed: %s; waiting until it has caught up, never rewinding", s.name, listed(short)),
		}}
	case len(gone) > 0:
		return &unfit{state: pool.Trimmed, lost: lost, stop: &position.Stop{
			Reason: fmt.Sprintf("source %s no longer has records of %s: retention passed them, or they were deleted, before they were relayed", s.name, listed(gone)),
			Cure:   "to go on without them, set on_gap: skip; or set resume: start and forget the mark, if there is one",
			Forget: forget,
		}}
	}
	return nil
}

// listed names the first few of many.
func listed(items []string) string {
	const few = 8
	if n := len(items) - few; n > 0 {
		items = append(items[:few:few], fmt.Sprintf("%d more", n))
	}
	return strings.Join(items, ", ")
}

// gap is a stretch of a partition that a source no longer has.
type gap struct {
	claim    int // its index
	from, to int64
}

// skipGaps moves claims to where the source's log begins and returns what is
// lost by it.
func (s *source) skipGaps(claims []claim) []gap {
	var gaps []gap
	for i := range claims {
		c := &claims[i]
		if start, ok := s.starts[c.tp]; ok && c.next < start {
			gaps = append(gaps, gap{i, c.next, start})
			c.next = start
		}
	}
	return gaps
}
