package input

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// missingAfter attempts in a row that miss a source topic mean that it is gone.
const missingAfter = 3

// recover asks where the target stands, decides where every source partition
// goes on, and begins a generation there.
func (in *Input) recover(ctx context.Context) error {
	target, err := in.hub.Target(ctx, in.res, in.conf.relay)
	if err != nil {
		return &position.Stop{Reason: err.Error()}
	}
	if err := in.openSource(ctx); err != nil {
		return err
	}
	st, err := target.Stand(ctx, relay.Query{ClusterID: in.source.desc.ClusterID, Topics: in.source.topics, Resume: in.conf.resume})
	if err != nil {
		return err
	}
	r := resolver{in: in, target: target, standing: st}
	starts, err := r.resolve(ctx)
	if err != nil {
		return err
	}
	gen := relay.NewGeneration(in.seat, target, relay.Plan{
		Standing: st, Starts: starts, WindowBytes: st.MaxInFlight * in.conf.batchMaxBytes,
		Strict: in.conf.resume == position.ResumeWatermark, Standard: in.conf.standard,
	})
	if err := target.Begin(ctx, gen); err != nil {
		return err
	}
	next := make([]int64, len(starts))
	for i, s := range starts {
		next[i] = s.Next
	}
	if in.stopAt == nil && in.conf.stopAtEnd {
		in.stopAt = r.ends
	}
	in.began = time.Now()
	return in.read(gen, next)
}

// openSource connects anew; what was open before is dropped.
func (in *Input) openSource(ctx context.Context) error {
	in.dropSource()
	s, err := openSource(ctx, in.conf)
	if missing := (*missingTopicError)(nil); errors.As(err, &missing) {
		if in.missing++; in.missing >= missingAfter {
			return &position.Stop{Reason: missing.Error()}
		}
		return err
	}
	in.missing = 0
	in.source = s
	return err
}

// read begins to read at next, within gen.
func (in *Input) read(gen *relay.Generation, next []int64) error {
	r, err := newReader(in, gen, next)
	if err != nil {
		return err
	}
	in.gen, in.reader = gen, r
	return nil
}

// reopen reads on at the in-memory positions, after trouble with the source.
func (in *Input) reopen(ctx context.Context) error {
	in.reader.close()
	next, cause := in.reader.positions(), in.reader.failure()
	if in.said == "" {
		if time.Since(in.reopened) > 2*in.conf.retry.longest {
			in.reopens = 0
		}
		in.reopened, in.reopens = time.Now(), in.reopens+1
		return reason{cause}
	}
	if in.conf.retry.max >= 0 && in.reopens > in.conf.retry.max+1 {
		return &position.Stop{Reason: fmt.Sprintf("gave up after reading was ended %d times in a row (retry.max_retries): %v", in.reopens, cause)}
	}
	if in.reopens > 1 && in.fails == 0 { // reading ended soon after it had begun
		if err := sleep(ctx, backoff(in.conf.retry, in.reopens-1)); err != nil {
			return err
		}
	}
	if err := in.openSource(ctx); err != nil {
		return err
	}
	starts, ends, err := in.source.bounds(ctx)
	if err != nil {
		return err
	}
	for i, p := range in.gen.Parts {
		if err := in.checkSame(p); err != nil {
			return err
		}
		if err := in.checkBounds(p.Source, next[i], starts[p.Source], ends[p.Source], nil); err != nil {
			return err
		}
	}
	return in.read(in.gen, next)
}

// checkSame refuses a topic that was recreated while the relay ran.
func (in *Input) checkSame(p relay.Part) error {
	was, now := p.Sources[len(p.Sources)-1].TopicID, in.source.desc.Topics[p.Source.Topic].ID
	if was == "" || now == "" || was == now {
		return nil
	}
	return &position.Stop{
		Reason: fmt.Sprintf("source topic %q of %s was deleted and recreated while the relay ran (topic ID %s, now %s): its offsets mean other records now", p.Source.Topic, in.source.name, was, now),
		Cure:   "restart the relay, which then says how to relay the new topic",
	}
}

// checkBounds refuses a position outside the source's log: behind its start
// records are lost, beyond its end they are yet to come.
func (in *Input) checkBounds(tp position.TP, next, start, end int64, forget *position.Key) error {
	switch {
	case next < start:
		return &position.Stop{
			Reason: fmt.Sprintf("source %s no longer has records of partition %s at offsets %d to %d: its log starts at %d (retention, or deleted records), and they were not relayed", in.source.name, tp, next, start-1, start),
			Cure:   "to go on without them, set resume: start and forget the mark, if there is one",
			Forget: forget,
		}
	case next > end:
		return fmt.Errorf("source %s is short of what was relayed: partition %s ends at offset %d, the relay stands at %d; waiting until it has caught up, never rewinding", in.source.name, tp, end, next)
	}
	return nil
}

// resolver decides where each source partition goes on.
type resolver struct {
	in       *Input
	target   relay.Target
	standing *relay.Standing
	starts   map[position.TP]int64
	ends     map[position.TP]int64
	fromTime map[position.TP]int64
}

func (r *resolver) resolve(ctx context.Context) ([]position.PartStart, error) {
	var err error
	if r.starts, r.ends, err = r.in.source.bounds(ctx); err != nil {
		return nil, err
	}
	out := make([]position.PartStart, len(r.standing.Parts))
	for i := range r.standing.Parts {
		ps := &r.standing.Parts[i]
		next, err := r.one(ctx, ps)
		if err != nil {
			return nil, r.withCommand(err)
		}
		out[i] = position.PartStart{Next: next}
		for slot := range ps.Part.Slots {
			out[i].Slots = append(out[i].Slots, ps.Part.FirstSlot+slot)
		}
		if m := ps.Evidence.Mark; m != nil {
			out[i].Pairs = m.Pairs
		}
	}
	return out, nil
}

// withCommand leaves it to the output to name the command, which knows the
// brokers.
func (r *resolver) withCommand(err error) error {
	keys := make([]position.Key, len(r.standing.Parts))
	for i, ps := range r.standing.Parts {
		keys[i] = ps.Evidence.Key
	}
	return r.target.Explain(err, keys)
}

func (r *resolver) one(ctx context.Context, ps *relay.PartStanding) (int64, error) {
	tp := ps.Part.Source
	d, err := position.Resolve(ps.Evidence)
	if err != nil {
		return 0, err
	}
	next := d.Offset
	switch d.Start {
	case position.StartAtConfigured:
		next, err = r.configured(ctx, tp)
	case position.StartChecked:
		next, err = r.checked(ctx, ps)
	}
	if err != nil {
		return 0, err
	}
	if ps.Evidence.Mark != nil {
		if err := r.agrees(ctx, ps); err != nil {
			return 0, err
		}
	}
	var forget *position.Key
	if ps.Evidence.Mark != nil {
		forget = &ps.Evidence.Key
	}
	if err := r.in.checkBounds(tp, next, r.starts[tp], r.ends[tp], forget); err != nil {
		return 0, err
	}
	r.in.log.With("partition", tp.String(), "offset", next, "log_start", r.starts[tp], "log_end", r.ends[tp]).Debugf("Position by %s", d.Why)
	return next, nil
}

func (r *resolver) configured(ctx context.Context, tp position.TP) (int64, error) {
	start := r.in.conf.start
	switch {
	case start.latest:
		return r.ends[tp], nil
	case start.at.IsZero():
		return r.starts[tp], nil
	}
	if r.fromTime == nil {
		var err error
		if r.fromTime, err = r.in.source.cluster.OffsetsAt(ctx, start.at, r.in.source.names()...); err != nil {
			return 0, err
		}
	}
	return min(r.fromTime[tp], r.ends[tp]), nil
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
	same, err := r.in.source.reader(r.in.conf.committed).At(ctx, tp, last.Offset)
	if err != nil {
		return 0, err
	}
	if same == nil || !bytes.Equal(same.Key, last.Key) || !bytes.Equal(same.Value, last.Value) {
		return 0, &position.Stop{
			Reason: fmt.Sprintf("target partition %s is not a copy of source partition %s: the target's last record, at offset %d, is %s, the source's there is %s, and no mark tells where to go on", slot, tp, last.Offset, show(last), show(same)),
			Cure:   ways,
		}
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

// agrees compares the source with the records the mark samples: a cluster the
// mark does not know must be another copy of the same records, and one it knows
// must still hold the last one.
func (r *resolver) agrees(ctx context.Context, ps *relay.PartStanding) error {
	m, tp := ps.Evidence.Mark, ps.Part.Source
	id := ps.Evidence.Source.ClusterID
	pairs := m.Pairs
	_, known := m.Knows(id)
	if known && len(pairs) > 0 {
		pairs = pairs[len(pairs)-1:]
	}
	reader := r.in.source.reader(r.in.conf.committed)
	compared := 0
	for _, pair := range pairs {
		if pair.Offset < r.starts[tp] || pair.Offset >= r.ends[tp] {
			continue
		}
		rec, err := reader.At(ctx, tp, pair.Offset)
		if err != nil {
			return err
		}
		if rec == nil {
			continue
		}
		if got := record.Fingerprint(rec); got != pair.Fingerprint {
			return &position.Stop{
				Reason: fmt.Sprintf("source %s (cluster %s) does not hold the records that relay_id %q relayed before: partition %s, offset %d has fingerprint %s, relayed was %s", r.in.source.name, id, r.standing.RelayID, tp, pair.Offset, got, pair.Fingerprint),
				Cure:   "check seed_brokers; if another relay uses this relay_id, give each its own; if the source's log was truncated (unclean election, restored backup), compare source and target before going on",
			}
		}
		compared++
	}
	if compared == 0 && !known {
		r.in.log.With("source", r.in.source.name, "partition", tp.String()).Warn("No record relayed before is left to compare this source with; it is followed unverified")
	}
	return nil
}
