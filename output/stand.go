package output

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/progress"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Stand implements relay.Target: it ends the last generation's producer, and
// gathers for every source partition what the target holds of it.
func (o *Output) Stand(ctx context.Context, q relay.Query) (*relay.Standing, error) {
	o.pulse.start(o.metrics)
	o.mu.Lock()
	old := o.session
	if o.found != nil {
		o.found.close()
	}
	o.session, o.found = nil, nil
	o.mu.Unlock()
	if old != nil {
		if fenced(old.gen.Broken()) && o.fencedAt.IsZero() {
			o.fencedAt = time.Now()
		}
		old.lastMarks(ctx) // of a generation that ended in good order
		old.close()        // all its writes have ended, one way or the other
		if err := old.settle(ctx); err != nil {
			if !isStop(err) {
				o.mu.Lock()
				o.session = old // the marks must be written first
				o.mu.Unlock()
			}
			return nil, err
		}
	}
	if err := o.forOthers(); err != nil {
		return nil, err
	}
	c, err := o.admin()
	if err != nil {
		return nil, err
	}
	b := &bearing{out: o, cluster: c, query: q}
	if err := b.take(ctx); err != nil {
		if b.client != nil {
			b.client.Close()
		}
		return nil, o.Explain(err, b.keys)
	}
	b.noteMoves()
	o.mu.Lock()
	defer o.mu.Unlock()
	f := &found{progress: b.progress, topics: b.desc.Topics, client: b.client}
	if b.progress != nil {
		f.topics[b.progress.Name] = kafka.Topic{ID: b.progress.ID}
	}
	if o.closed {
		f.close()
		return nil, errors.New("the output is closed")
	}
	o.found = f
	return b.standing, nil
}

func isStop(err error) bool {
	var stop *position.Stop
	return errors.As(err, &stop)
}

// forOthers is the stop where the output is set up for messages that no
// kafka_failover input made, or nil.
func (o *Output) forOthers() error {
	if !o.hasTarget() || o.conf.exactly {
		return nil
	}
	return &position.Stop{
		Reason: o.name + " sets topic, key or partition, which are for messages that no kafka_failover input made",
		Cure:   "remove them: relayed messages go where the input's `topics` says",
	}
}

func (o *Output) hasTarget() bool { return o.conf.hasTopic || o.conf.hasKey || o.conf.hasPartition }

// bearing is one answer to Stand in the making.
type bearing struct {
	out      *Output
	cluster  *kafka.Cluster
	query    relay.Query
	desc     *kafka.Description
	progress *progress.Topic
	marks    map[position.Key]progress.Entry
	starts   map[position.TP]int64
	ends     map[position.TP]int64
	keys     []position.Key
	standing *relay.Standing
	client   *kgo.Client // the transactional producer
	// unmade are topics that a start would create, in a preview.
	unmade []string
}

func (b *bearing) take(ctx context.Context) error {
	return b.each(ctx, b.describe, b.refuse, b.checkTopics, b.layOut, b.fence, b.loadMarks, b.claim, b.stake, b.listOffsets, b.gather, b.readSuffix)
}

func (b *bearing) each(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bearing) topics() []string {
	var names []string
	seen := map[string]bool{}
	for _, t := range b.query.Topics {
		if !seen[t.Route.Target] {
			seen[t.Route.Target] = true
			names = append(names, t.Route.Target)
		}
	}
	return names
}

// allTopics are those of the routes and the one for dead letters.
func (b *bearing) allTopics() []string {
	if t := b.out.conf.deadLetterTopic; t != "" {
		return append(b.topics(), t)
	}
	return b.topics()
}

// made are the target's topics that are there.
func (b *bearing) made() []string {
	return slices.DeleteFunc(b.topics(), func(t string) bool { return slices.Contains(b.unmade, t) })
}

// describe finds the target's topics and refuses a target that is the source.
func (b *bearing) describe(ctx context.Context) error {
	d, err := b.cluster.Describe(ctx, b.allTopics()...)
	if err != nil {
		return err
	}
	b.desc = d
	if d.ClusterID != "" && d.ClusterID == b.query.ClusterID {
		return relay.IsSource(d.ClusterID)
	}
	return nil
}

// checkKnown refuses a topic that is another one than when the relay began.
func (o *Output) checkKnown(topic, id string) error {
	if o.known == nil {
		o.known = map[string]string{}
	}
	if was := o.known[topic]; was != "" && id != "" && was != id {
		return &position.Stop{
			Reason: fmt.Sprintf("target topic %q was deleted and recreated while the relay ran (topic ID %s, now %s): what was relayed before is gone", topic, was, id),
			Cure:   "restart the relay, which then says how to relay it from the beginning",
		}
	}
	o.known[topic] = id
	return nil
}

// relayID names the relay: the target's cluster ID if nothing else is said.
func (b *bearing) relayID() string { return cmp.Or(b.out.conf.relayID, b.desc.ClusterID) }

// refuse is for what cannot be right whatever is on the target; nothing has been
// created there yet.
func (b *bearing) refuse(context.Context) error {
	o := b.out
	if b.relayID() == "" {
		return &position.Stop{Reason: "the target names no cluster ID to derive relay_id from", Cure: "set relay_id of the kafka_failover output"}
	}
	if !relayIDPattern.MatchString(b.relayID()) {
		return &position.Stop{Reason: fmt.Sprintf("the target's cluster ID %q cannot serve as relay_id", b.relayID()), Cure: "set relay_id of the kafka_failover output"}
	}
	if slices.Contains(b.topics(), o.conf.progressTopic) {
		return &position.Stop{Reason: fmt.Sprintf("progress_topic %q is also the target of a route", o.conf.progressTopic), Cure: "give progress_topic another name"}
	}
	if o.conf.originHeader == "" && b.query.Resume != position.ResumeWatermark && !o.conf.exactly {
		return &position.Stop{Reason: "origin_header is empty, which only resume: watermark and delivery: exactly_once can do without", Cure: "set origin_header to a header name, such as _origin"}
	}
	return nil
}

// layOut gives every target partition a slot, and every source partition its
// slots.
func (b *bearing) layOut(context.Context) error {
	o := b.out
	st := &relay.Standing{ClusterID: b.desc.ClusterID, RelayID: b.relayID(), OriginHeader: o.conf.originHeader, MaxInFlight: o.conf.maxInFlight, Marked: map[string]int32{}}
	first := map[string]int{}
	for _, name := range b.topics() {
		first[name] = len(st.Slots)
		for p := range b.desc.Topics[name].Partitions {
			st.Slots = append(st.Slots, position.TP{Topic: name, Partition: p})
		}
	}
	for _, t := range b.query.Topics {
		target := b.desc.Topics[t.Route.Target]
		for p := range t.Partitions {
			part := relay.Part{
				Source: position.TP{Topic: t.Route.Source, Partition: p}, Route: t.Route,
				FirstSlot: first[t.Route.Target], Slots: 1,
				SourcePartitions: t.Partitions,
				Sources:          []position.SourceID{{ClusterID: b.query.ClusterID, TopicID: t.TopicID}},
				TargetTopicID:    target.ID,
			}
			switch t.Route.Mode {
			case relay.SamePartition:
				if p >= target.Partitions {
					return fmt.Errorf("target topic %q has %d partitions and needs %d", t.Route.Target, target.Partitions, t.Partitions)
				}
				part.FirstSlot += int(p)
			case relay.FixedPartition:
				part.FirstSlot += int(t.Route.Partition)
			case relay.ByKey:
				part.Slots = int(target.Partitions)
			}
			st.Parts = append(st.Parts, relay.PartStanding{Part: part})
			b.keys = append(b.keys, part.Key(st.RelayID))
		}
	}
	b.standing = st
	return nil
}

func (b *bearing) loadMarks(ctx context.Context) error {
	if b.query.Resume == position.ResumeWatermark {
		return nil
	}
	return b.each(ctx, b.openProgress, b.retire, b.readMarks)
}

func (b *bearing) openProgress(ctx context.Context) (err error) {
	if b.progress, err = progress.Open(ctx, b.cluster, b.out.conf.progressTopic, b.out.conf.replication, b.out.known[b.out.conf.progressTopic] == ""); err != nil {
		return err
	}
	return b.out.checkKnown(b.progress.Name, b.progress.ID)
}

func (b *bearing) readMarks(ctx context.Context) (err error) {
	if _, err := b.awaitStable(ctx, []string{b.progress.Name}); err != nil {
		return fmt.Errorf("reading marks from %s: %w", b.progress.Name, err)
	}
	b.marks, err = b.progress.Load(ctx)
	return err
}

// claim takes a generation above those of all instances before. An instance
// that has one and meets a later one has been taken over.
func (b *bearing) claim(context.Context) error {
	if b.progress == nil {
		return nil
	}
	o := b.out
	highest, keys := int64(0), b.keys
	if o.conf.exactly {
		keys = append(keys[:len(keys):len(keys)], ownerKey(b.standing.RelayID))
	}
	for _, k := range keys {
		e, ok := b.marks[k]
		if !ok || e.Mark.Instance == o.instance {
			continue
		}
		if o.generation > 0 && e.Mark.Generation >= o.generation {
			return overtaken(o, e)
		}
		highest = max(highest, e.Mark.Generation)
	}
	if o.generation == 0 {
		o.generation = highest + 1
	}
	return nil
}

// stableTimeout bounds one wait for open transactions; the next attempt waits
// again.
const stableTimeout = 10 * time.Second

// stablePoll is how often open transactions are looked at.
const stablePoll = 20 * time.Millisecond

// hung follows a last stable offset that does not move.
type hung struct {
	at     position.TP
	offset int64
	since  time.Time
}

// longerThan tells whether the last stable offset of a partition has been looked
// at for longer than limit, and was the same each time.
func (h *hung) longerThan(limit time.Duration, at position.TP, offset int64, now time.Time) bool {
	if h.since.IsZero() || h.at != at || h.offset != offset {
		*h = hung{at, offset, now}
	}
	return now.Sub(h.since) > limit
}

// awaitStable notes the high watermarks and waits until the last stable
// offsets have reached them: what was there before is decided then. A
// transaction left open holds this up until its timeout.
func (b *bearing) awaitStable(ctx context.Context, topics []string) (map[position.TP]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, stableTimeout)
	defer cancel()
	ends, err := b.cluster.Offsets(ctx, kafka.HighWatermark, topics...)
	if err != nil {
		return nil, err
	}
	for {
		stable, err := b.cluster.Offsets(ctx, kafka.LastStable, topics...)
		if err != nil {
			return nil, err
		}
		open, at := false, position.TP{}
		for tp, end := range ends {
			if stable[tp] < end {
				open, at = true, tp
			}
		}
		if !open {
			return ends, nil
		}
		select {
		case <-ctx.Done():
			ctx := context.WithoutCancel(ctx)
			holds := cmp.Or(b.cluster.OpenTransactions(ctx, at), "the broker names none")
			if b.out.hung.longerThan(b.cluster.LongestTransaction(ctx), at, stable[at], time.Now()) {
				return nil, &position.Stop{
					Reason: fmt.Sprintf("a transaction hangs on target partition %s: its last stable offset %d has stayed below %d for longer than transaction.max.timeout.ms: %s", at, stable[at], ends[at], holds),
					Cure:   fmt.Sprintf("look at it with kafka-transactions.sh --bootstrap-server %s find-hanging, and abort it with: kafka-transactions.sh --bootstrap-server %s abort --topic %s --partition %d --start-offset %d", b.out.conf.conn.SeedBrokers[0], b.out.conf.conn.SeedBrokers[0], at.Topic, at.Partition, stable[at]),
				}
			}
			return nil, fmt.Errorf("a transaction is open on target partition %s: its last stable offset %d stays below %d; wait for its timeout, or find its producer with kafka-transactions.sh find-hanging: %s", at, stable[at], ends[at], holds)
		case <-time.After(stablePoll):
		}
	}
}

func (b *bearing) listOffsets(ctx context.Context) (err error) {
	if b.starts, err = b.cluster.Offsets(ctx, kafka.LogStart, b.made()...); err != nil {
		return err
	}
	if b.allTransactional() { // nothing of the target's records counts
		b.ends, err = b.cluster.Offsets(ctx, kafka.HighWatermark, b.made()...)
	} else {
		b.ends, err = b.awaitStable(ctx, b.made())
	}
	if err != nil {
		return err
	}
	for _, tp := range b.standing.Slots {
		b.standing.Ends = append(b.standing.Ends, b.ends[tp])
	}
	return nil
}

// allTransactional tells whether every position stands in a mark that was
// committed with its records.
func (b *bearing) allTransactional() bool {
	if !b.out.conf.exactly {
		return false
	}
	for _, k := range b.keys {
		if e, ok := b.marks[k]; !ok || !e.Mark.Transactional {
			return false
		}
	}
	return true
}

// noteMoves says that a relay goes on under another delivery than before.
func (b *bearing) noteMoves() {
	moved := 0
	for _, k := range b.keys {
		if e, ok := b.marks[k]; ok && e.Mark.Transactional != b.out.conf.exactly {
			moved++
		}
	}
	switch {
	case moved == 0:
	case b.out.conf.exactly:
		b.out.log.Infof("Positions of %d partitions are taken over from delivery: at_least_once; from here on records and positions are committed together", moved)
	default:
		b.out.log.Warnf("Positions of %d partitions are taken over from delivery: exactly_once; from here on a killed or failed write may repeat up to one window of records", moved)
	}
}

// gather puts together what is known of each source partition but the suffix.
func (b *bearing) gather(context.Context) error {
	st := b.standing
	// Partitions of a source topic when its marks were last written as a whole:
	// the first marks of a start may have been written in part.
	had := map[string]int32{}
	for _, k := range b.keys {
		if e, ok := b.marks[k]; ok {
			if n, seen := had[k.Source.Topic]; !seen || e.Mark.Partitions < n {
				had[k.Source.Topic] = e.Mark.Partitions
			}
			st.Marked[k.Source.Topic] = max(st.Marked[k.Source.Topic], e.Mark.Partitions)
		}
	}
	for i := range st.Parts {
		ps := &st.Parts[i]
		e := position.Evidence{
			Key: b.keys[i], Resume: b.query.Resume,
			SamePartition: ps.Part.Route.Mode == relay.SamePartition,
			NewPartition:  had[ps.Part.Source.Topic] > 0 && ps.Part.Source.Partition >= had[ps.Part.Source.Topic],
			TargetTopicID: ps.Part.TargetTopicID,
			Source:        ps.Part.Sources[0],
			OtherRelays:   b.otherRelays(b.keys[i], ps.Part),
		}
		for slot := ps.Part.FirstSlot; slot < ps.Part.FirstSlot+ps.Part.Slots; slot++ {
			e.Targets = append(e.Targets, b.logOf(st.Slots[slot]))
		}
		if m, ok := b.marks[e.Key]; ok {
			mark := m.Mark
			e.Mark, e.MarkOffset = &mark, m.Offset
			ps.Part.Sources = position.Remember(mark.Sources, ps.Part.Sources[0])
			for p := range mark.Covered {
				e.Marked = append(e.Marked, b.logOf(position.TP{Topic: e.Key.Target, Partition: p}))
			}
		}
		ps.Evidence = e
	}
	return nil
}

func (b *bearing) logOf(tp position.TP) position.TargetLog {
	return position.TargetLog{Partition: tp.Partition, Start: b.starts[tp], End: b.ends[tp]}
}

// otherRelays finds marks of other relay_ids for the same copy.
func (b *bearing) otherRelays(k position.Key, part relay.Part) []string {
	var ids []string
	for other, e := range b.marks {
		if other.RelayID == k.RelayID || other.Source != k.Source || other.Target != k.Target {
			continue
		}
		if _, known := e.Mark.Knows(part.Sources[0].ClusterID); known && e.Mark.TargetTopicID == part.TargetTopicID {
			ids = append(ids, other.RelayID)
		}
	}
	return ids
}

// suffixReaders bounds the target partitions read at once.
const suffixReaders = 8

// readSuffix reads the target behind the marks and keeps, per source
// partition, the records of this relay.
func (b *bearing) readSuffix(ctx context.Context) error {
	from := map[position.TP]int64{}
	parts := map[position.TP]*relay.PartStanding{}
	for i := range b.standing.Parts {
		ps := &b.standing.Parts[i]
		if ps.Evidence.Mark == nil || (ps.Evidence.Mark.Transactional && b.out.conf.exactly) {
			continue // nothing stands behind a committed mark
		}
		parts[ps.Part.Source] = ps
		for p, covered := range ps.Evidence.Mark.Covered {
			tp := position.TP{Topic: ps.Part.Route.Target, Partition: p}
			if at, ok := from[tp]; !ok || covered < at {
				from[tp] = covered
			}
		}
	}
	if b.standing.OriginHeader == "" && len(parts) > 0 {
		return &position.Stop{
			Reason: "origin_header is empty, and the marks are of delivery: at_least_once: what stands behind them can be told by that header only",
			Cure:   "set origin_header to what it was, until the relay has run with exactly_once once",
		}
	}
	reader := b.cluster.Reader(b.desc, true)
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(suffixReaders)
	var mu sync.Mutex
	for tp, start := range from {
		eg.Go(func() error {
			seen := map[*relay.PartStanding][]position.Seen{}
			err := reader.Each(ctx, tp, start, b.ends[tp], func(r *kgo.Record) bool {
				if ps, s, ok := b.ours(parts, r); ok {
					seen[ps] = append(seen[ps], s)
				}
				return true
			})
			mu.Lock()
			defer mu.Unlock()
			for ps, s := range seen {
				ps.Evidence.Seen = append(ps.Evidence.Seen, s...)
			}
			return err
		})
	}
	return eg.Wait()
}

// ours tells whether a target record was written by this relay, from which
// source partition, behind its mark.
func (b *bearing) ours(parts map[position.TP]*relay.PartStanding, r *kgo.Record) (*relay.PartStanding, position.Seen, bool) {
	origin, ok := record.LastOrigin(r, b.standing.OriginHeader)
	if !ok || origin.RelayID != b.standing.RelayID {
		return nil, position.Seen{}, false
	}
	ps, ok := parts[position.TP{Topic: origin.Topic, Partition: origin.Partition}]
	if !ok || ps.Part.Route.Target != r.Topic {
		return nil, position.Seen{}, false
	}
	covered, named := ps.Evidence.Mark.Covered[r.Partition]
	return ps, position.Seen{Offset: origin.Offset, Prev: origin.Prev}, named && r.Offset >= covered
}

// LastRecord implements relay.Target.
func (o *Output) LastRecord(ctx context.Context, tp position.TP) (*kgo.Record, error) {
	c, done, err := o.borrow()
	if err != nil {
		return nil, err
	}
	defer done()
	d, err := c.Describe(ctx, tp.Topic)
	if err != nil {
		return nil, err
	}
	starts, err1 := c.Offsets(ctx, kafka.LogStart, tp.Topic)
	ends, err2 := c.Offsets(ctx, kafka.LastStable, tp.Topic)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return c.Reader(d, true).Last(ctx, tp, starts[tp], ends[tp])
}
