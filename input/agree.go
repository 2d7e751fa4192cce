package input

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/preflight"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

// compareSources tells of sources that are one cluster, whose partition counts
// differ, or that do not hold the same records.
func (c *check) compareSources(ctx context.Context) {
	for i, k := range c.seen {
		for _, o := range c.seen[:i] {
			if k.source == nil || o.source == nil {
				continue
			}
			if id := k.source.desc.ClusterID; id != "" && id == o.source.desc.ClusterID {
				c.report.Add(preflight.Fail, preflight.OnSources, "clusters", "%s and %s are one cluster (ID %s): check their seed_brokers", o.name, k.name, id)
			}
			for n, t := range k.source.topics {
				if p := o.source.topics[n].Partitions; p != t.Partitions {
					c.report.Add(preflight.Warn, preflight.OnSources, "topic "+t.Route.Source, "%s has %d partitions and %s %d: the one with fewer cannot be read once the others have been relayed", o.name, p, k.name, t.Partitions)
				}
			}
		}
	}
	first := c.first()
	c.each(func(k *checked) {
		if k.source != first {
			c.agree(ctx, first, k.source)
		}
	})
}

// agree compares samples of two sources.
func (c *check) agree(ctx context.Context, first, s *source) {
	compared, err := first.agrees(ctx, s)
	switch u := (*unfit)(nil); {
	case errors.As(err, &u) && c.in.conf.trustDiverged:
		c.report.Add(preflight.Warn, preflight.OnSources, "agreement", "on_divergence: ignore: %s", u.stop.Reason)
	case errors.As(err, &u):
		c.report.Add(preflight.Fail, preflight.OnSources, "agreement", "%s", u.stop.Reason)
	case err != nil:
		c.report.Add(preflight.Warn, preflight.OnSources, "agreement", "%v", err)
	case compared == 0:
		c.report.Add(preflight.Warn, preflight.OnSources, "agreement", "%s and %s have no record at a common offset to compare", first.name, s.name)
	default:
		c.report.Add(preflight.OK, preflight.OnSources, "agreement", "%s holds the same records as %s at %d sampled offsets", s.name, first.name, compared)
	}
}

// agreeSamples bounds the records compared between two sources altogether; each
// partition has its last common one compared, and some more if few share it.
const agreeSamples = 256

// agrees reads records at common offsets of two sources. The error is an *unfit
// if one differs.
func (s *source) agrees(ctx context.Context, o *source) (int, error) {
	each := max(1, min(position.MaxPairs, agreeSamples/max(1, len(s.ends))))
	mine, others := s.reader(), o.reader()
	var mu sync.Mutex
	total := 0
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(samplesAtOnce)
	for tp, end := range s.ends {
		from, to := max(s.starts[tp], o.starts[tp]), min(end, o.ends[tp])
		eg.Go(func() error {
			n, err := agreePart(ctx, s.name, o.name, mine, others, tp, spread(from, to, each))
			mu.Lock()
			defer mu.Unlock()
			total += n
			return err
		})
	}
	err := eg.Wait()
	return total, err
}

// spread chooses up to n offsets of [from, to), the last one among them.
func spread(from, to int64, n int) []int64 {
	var out []int64
	for i := range int64(n) {
		if at := to - 1 - i*max(1, (to-from)/int64(n)); at >= from {
			out = append(out, at)
		}
	}
	slices.Reverse(out)
	return out
}

// agreePart compares the records of two sources at the same offsets of one
// partition, and returns how many both had.
func agreePart(ctx context.Context, first, second string, a, b *kafka.Reader, tp position.TP, offsets []int64) (n int, err error) {
	for _, at := range offsets {
		x, err1 := a.At(ctx, tp, at)
		y, err2 := b.At(ctx, tp, at)
		if err := errors.Join(err1, err2); err != nil {
			return n, err
		}
		if x == nil || y == nil { // compacted away, or a control record
			continue
		}
		n++
		if fx, fy := record.Fingerprint(x), record.Fingerprint(y); fx != fy {
			return n, diverged(&position.Stop{Reason: fmt.Sprintf("partition %s, offset %d is %s on %s and %s on %s (fingerprints %s and %s): they are not copies of each other; whichever was not written by the mirror must be mirrored anew", tp, at, show(x), first, show(y), second, fx, fy)})
		}
	}
	return n, nil
}
