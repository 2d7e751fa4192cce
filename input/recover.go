package input

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// begin asks where the target stands, decides where every source partition goes
// on, and begins a generation there, on s.
func (in *Input) begin(ctx context.Context, s *source, skip bool) error {
	target, err := in.target(ctx)
	if err != nil {
		return &position.Stop{Reason: err.Error()}
	}
	st, err := target.Stand(ctx, relay.Query{ClusterID: s.desc.ClusterID, Topics: s.topics, Resume: in.conf.resume, Settings: s.settings})
	if err != nil {
		return err
	}
	r := resolver{in: in, source: s, target: target, standing: st}
	claims, err := r.resolve(ctx)
	if err != nil {
		return r.explain(err)
	}
	if err := s.catchUp(ctx, in.conf, claims); err != nil {
		return err
	}
	gaps, err := in.fit(ctx, s, claims, skip)
	if err != nil {
		return r.explain(err)
	}
	plan := relay.Plan{
		Standing: st, Starts: r.starts(claims), WindowBytes: st.MaxInFlight * in.conf.batchMaxBytes,
		Strict: in.conf.resume == position.ResumeWatermark, Standard: in.conf.standard, Direct: relay.IsDirect(),
	}
	if in.cache != nil {
		plan.Alone, plan.Direct = in.cache.alone(), false
	}
	gen := relay.NewGeneration(in.seat, target, plan)
	if err := target.Begin(ctx, gen); err != nil {
		return err
	}
	if in.stopAt == nil && in.conf.stopAtEnd {
		in.stopAt = s.ends
		starts := map[position.TP]int64{}
		for _, c := range claims {
			starts[c.tp] = c.next
		}
		in.progress = relay.NewProgress(starts, s.ends)
	}
	if in.progress != nil {
		in.progress.Follow(gen)
	}
	reader, err := newReader(in, gen, s, nexts(claims))
	if err != nil {
		return err
	}
	if in.partitions == nil {
		in.partitions = map[string]int32{}
		for _, t := range s.topics {
			in.partitions[t.Route.Source] = t.Partitions
		}
	}
	in.lose(s, claims, gaps)
	in.gen, in.reader, in.began = gen, reader, time.Now()
	in.gauges.follow(gen)
	in.metrics.Window(0, gen.WindowBytes())
	for _, c := range claims { // shown before the first loss
		in.metrics.Lost(c.tp.Topic, c.tp.Partition, 0)
	}
	return nil
}

// resolver decides where each source partition goes on.
type resolver struct {
	in       *Input
	source   *source
	target   relay.Target
	standing *relay.Standing
	fromTime map[position.TP]int64
}

// resolve returns a claim per part of the standing.
func (r *resolver) resolve(ctx context.Context) ([]claim, error) {
	if err := r.lacks(); err != nil {
		return nil, err
	}
	claims := make([]claim, len(r.standing.Parts))
	for i := range claims {
		ps := &r.standing.Parts[i]
		next, why, err := r.one(ctx, ps)
		if err != nil {
			return nil, err
		}
		claims[i] = claim{tp: ps.Part.Source, next: next, why: why}
		if m := ps.Evidence.Mark; m != nil {
			claims[i].pairs, claims[i].forget = m.Pairs, &ps.Evidence.Key
			_, claims[i].known = m.Knows(ps.Evidence.Source.ClusterID)
		}
	}
	return claims, nil
}

// lacks refuses a source that has fewer partitions than were relayed before.
func (r *resolver) lacks() error {
	needs := pool.Ends{}
	var lacking []string
	for _, t := range r.source.topics {
		for p := t.Partitions; p < r.standing.Marked[t.Route.Source]; p++ {
			tp := position.TP{Topic: t.Route.Source, Partition: p}
			needs[tp] = 0
			lacking = append(lacking, tp.String())
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return &unfit{state: pool.Short, needs: needs, stop: &position.Stop{
		Reason: fmt.Sprintf("source %s lacks partitions that were relayed before: %s; waiting until it has them", r.source.name, listed(lacking)),
	}}
}

// starts is what a generation is told of the claims.
func (r *resolver) starts(claims []claim) []position.PartStart {
	out := make([]position.PartStart, len(claims))
	for i, c := range claims {
		part := r.standing.Parts[i].Part
		out[i] = position.PartStart{Next: c.next, Pairs: c.pairs}
		for slot := range part.Slots {
			out[i].Slots = append(out[i].Slots, part.FirstSlot+slot)
		}
	}
	return out
}

// explain has the output name the command that a stop asks for: it knows the
// brokers.
func (r *resolver) explain(err error) error {
	keys := make([]position.Key, len(r.standing.Parts))
	for i, ps := range r.standing.Parts {
		keys[i] = ps.Evidence.Key
	}
	if u := (*unfit)(nil); errors.As(err, &u) {
		_ = r.target.Explain(u.stop, keys) // completes the stop itself
		return u
	}
	return r.target.Explain(err, keys)
}

func (r *resolver) one(ctx context.Context, ps *relay.PartStanding) (next int64, why string, err error) {
	tp := ps.Part.Source
	d, err := position.Resolve(ps.Evidence)
	if stop := (*position.Stop)(nil); errors.As(err, &stop) && stop.OfSource {
		return 0, "", diverged(stop)
	}
	if err != nil {
		return 0, "", err
	}
	next = d.Offset
	switch d.Start {
	case position.StartAtConfigured:
		next, err = r.configured(ctx, tp)
	case position.StartChecked:
		next, err = r.checked(ctx, ps)
	}
	r.in.log.With("partition", tp.String(), "offset", next, "log_start", r.source.starts[tp], "log_end", r.source.ends[tp]).Debugf("Position by %s", d.Why)
	return next, d.Why, err
}

func (r *resolver) configured(ctx context.Context, tp position.TP) (int64, error) {
	start := r.in.conf.start
	switch n, known := r.in.partitions[tp.Topic]; {
	case known && tp.Partition >= n: // added while the relay ran
		return 0, nil
	case r.in.partitions != nil && !known, r.in.appeared(tp.Topic): // its topic was: retention may have been there
		return r.source.starts[tp], nil
	}
	switch {
	case start.latest:
		return r.source.ends[tp], nil
	case start.at.IsZero():
		return r.source.starts[tp], nil
	}
	if r.fromTime == nil {
		var err error
		if r.fromTime, err = r.source.cluster.OffsetsAt(ctx, start.at, r.source.names()...); err != nil {
			return 0, askError{err}
		}
	}
	return min(r.fromTime[tp], r.source.ends[tp]), nil
}

// checked takes the target's end as the position only if the last record there
// is the source's record at the same offset.
func (r *resolver) checked(ctx context.Context, ps *relay.PartStanding) (int64, error) {
	tp := ps.Part.Source
	slot := r.standing.Slots[ps.Part.FirstSlot]
	last, err := r.target.LastRecord(ctx, slot)
	if err != nil {
		return 0, err
	}
	ways := "set resume: watermark to insist that target offsets are source offsets, or resume: start to relay from start_offset behind what is there"
	if last == nil {
		return 0, &position.Stop{Reason: fmt.Sprintf("target partition %s has held records, none is left to compare with the source, and no mark tells where to go on", slot), Cure: ways}
	}
	if o, ok := record.LastOrigin(last, r.standing.OriginHeader); ok && o.RelayID == r.standing.RelayID {
		return 0, &position.Stop{
			Reason: fmt.Sprintf("target partition %s was written by this relay (relay_id %q), but its marks are gone: the progress topic was deleted or its marks removed", slot, o.RelayID),
			Cure:   "restore the progress topic; or set resume: start with a start_offset before the last relayed record, which repeats some; or " + ways,
		}
	}
	if last.Offset >= r.source.ends[tp] {
		return last.Offset + 1, nil // short of it; the examination says so
	}
	same, err := r.source.reader().At(ctx, tp, last.Offset)
	if err != nil {
		return 0, askError{err}
	}
	if same == nil || !bytes.Equal(same.Key, last.Key) || !bytes.Equal(same.Value, last.Value) {
		return 0, diverged(&position.Stop{
			Reason: fmt.Sprintf("target partition %s is not a copy of source partition %s of %s: the target's last record, at offset %d, is %s, the source's there is %s, and no mark tells where to go on", slot, tp, r.source.name, last.Offset, show(last), show(same)),
			Cure:   ways,
		})
	}
	return last.Offset + 1, nil
}

func show(r *kgo.Record) string {
	if r == nil {
		return "missing"
	}
	return fmt.Sprintf("key %s value %s", shorten(r.Key), shorten(r.Value))
}

func shorten(b []byte) string {
	const most = 40
	if b == nil {
		return "null"
	}
	if len(b) > most {
		return fmt.Sprintf("%q... (%d bytes)", b[:most], len(b))
	}
	return fmt.Sprintf("%q", b)
}
