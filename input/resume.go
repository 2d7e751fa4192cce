package input

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// errGrown ends reading when the source has more partitions than the generation
// knows of.
var errGrown = errors.New("partitions were added to a source topic")

// leaving ends reading because the pool has a better source, or none.
type leaving struct{ error }

func (l leaving) Unwrap() error { return l.error }

// leave drops the client that was read with, at once, and keeps the positions
// and the cause.
func (in *Input) leave() {
	r := in.reader
	if r == nil {
		return
	}
	in.reader = nil
	in.next, in.cause, in.left = r.positions(), r.failure(), r.failedAt()
	in.closing.Go(r.close) // a broker that hangs is waited for by its client
	switch {
	case in.cause == nil: // the generation or the target is to blame
		return
	case errors.As(in.cause, &leaving{}), regroups(in.cause):
		in.ended = 0
		return
	}
	if in.left.Sub(r.began) > 2*in.conf.retry.longest || in.endedOn != r.source.index {
		in.ended = 0
	}
	in.endedOn = r.source.index
	if in.ended++; in.ended > 1 { // it answers probes, and reading fails again and again
		in.pool.Find(func(p *pool.Pool) *pool.Change { return p.Stalled(r.source.index, in.cause) })
	}
}

// resume reads on at the in-memory positions, on s: whatever is in the pipeline
// goes on.
func (in *Input) resume(ctx context.Context, s *source, skip bool) error {
	if s.desc.ClusterID != "" && s.desc.ClusterID == in.gen.TargetID {
		return relay.IsSource(s.desc.ClusterID)
	}
	claims := make([]claim, len(in.gen.Parts))
	for i := range claims {
		tp := in.gen.Parts[i].Source
		before := in.gen.SourcesOf(i)
		if err := s.recreated(tp, before); err != nil {
			return err
		}
		claims[i] = claim{tp: tp, next: in.next[i], pairs: in.gen.Samples(i), known: slices.Contains(before, s.id(tp.Topic))}
	}
	gaps, err := in.fit(ctx, s, claims, skip)
	if err != nil {
		return err
	}
	r, err := newReader(in, in.gen, s, nexts(claims))
	if err != nil {
		return err
	}
	for i, c := range claims {
		in.gen.ReadFrom(i, s.id(c.tp.Topic))
	}
	for _, g := range gaps {
		in.gen.Skip(g.claim, g.to)
	}
	in.lose(s, claims, gaps)
	in.reader = r
	return nil
}

func nexts(claims []claim) []int64 {
	out := make([]int64, len(claims))
	for i, c := range claims {
		out[i] = c.next
	}
	return out
}

// recreated refuses a topic that is another one than when this source was read
// before.
func (s *source) recreated(tp position.TP, before []position.SourceID) error {
	now := s.id(tp.Topic)
	for _, was := range before {
		if was.ClusterID == now.ClusterID && was.TopicID != "" && now.TopicID != "" && was.TopicID != now.TopicID {
			return diverged(&position.Stop{
				Reason: fmt.Sprintf("source topic %q of %s was deleted and recreated while the relay ran (topic ID %s, now %s): its offsets mean other records now", tp.Topic, s.name, was.TopicID, now.TopicID),
				Cure:   "restart the relay, which then says how to relay the new topic",
			})
		}
	}
	return nil
}

// retire ends a generation in good order, so that the next one begins with the
// partitions that were added: everything read is waited for. It tells whether
// that came about; if not, the generation has broken or the target is down.
func (in *Input) retire(ctx context.Context) (bool, error) {
	ok, err := in.gen.DrainedOrTrouble(ctx)
	if ok && errors.Is(in.cause, errGrown) {
		in.log.Info("Partitions were added to a source topic: they are relayed from offset 0")
	}
	if ok {
		in.gen, in.next = nil, nil
	}
	return ok, err
}

// pauseBetweenEnds waits before a source is read again that has ended reading
// several times in a row, if there is no other.
func (in *Input) pauseBetweenEnds(ctx context.Context) error {
	if in.ended < 2 {
		return nil
	}
	if d, _ := in.pool.Decide(); d.To >= 0 && d.To != in.last {
		return nil
	}
	if most := in.conf.retry.max; most >= 0 && in.ended > most+1 {
		return &position.Stop{Reason: fmt.Sprintf("gave up after reading was ended %d times in a row (retry.max_retries): %v", in.ended, in.cause)}
	}
	return sleep(ctx, backoff(in.conf.retry, in.ended-1))
}

// better tells why reading is to end on source i: another one is to be read,
// none can be, or partitions were added.
func (in *Input) better(r *reader) error {
	if err := in.pool.OneCluster(); err != nil {
		in.fatal(err)
		return err
	}
	i := r.source.index
	d, _ := in.pool.Decide()
	now := in.pool.Status()[i]
	switch {
	case d.To == i:
		if in.stopAt == nil && r.grown() {
			return errGrown
		}
		return nil
	case d.To < 0: // slow answers are no reason to stop while records come
		if time.Since(r.lastMoved()) < in.conf.timeout {
			return nil
		}
	case d.Why == pool.Lagging:
		return leaving{fmt.Errorf("%w: %s by %d records", pool.ErrLaggingBehind, r.source.name, now.Lag)}
	case d.Why == pool.Failback:
		return leaving{errors.New("an earlier source is healthy again (failback)")}
	}
	return leaving{errors.New(now.String())}
}
