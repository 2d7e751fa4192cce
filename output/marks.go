package output

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/progress"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// markInterval is how often marks are written while something moves. It
// bounds what a boot reads back; it decides nothing.
const markInterval = time.Second

// firstMarksTimeout bounds one attempt to begin; the next one tries again.
const firstMarksTimeout = 10 * time.Second

// errOvertaken is met at start by the second of two instances that began at
// the same moment; it tries again under a higher generation.
var errOvertaken = errors.New("another instance with this relay_id started at the same moment")

// Begin implements relay.Target.
func (o *Output) Begin(ctx context.Context, g *relay.Generation) error {
	o.mu.Lock()
	f := o.found
	o.mu.Unlock()
	if f == nil {
		return errors.New("output: Begin without Stand")
	}
	s, err := o.newSession(g, f)
	if err != nil {
		return err
	}
	o.mu.Lock()
	f.client = nil // the session's now
	o.mu.Unlock()
	if s.progress != nil {
		if err := s.firstMarks(ctx); err != nil {
			s.hangUp()
			return o.Explain(err, nil)
		}
	}
	s.careful, s.single = o.refused.take()
	s.condemned = o.refused.known(g.Positions())
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.session != nil {
		s.hangUp()
		return errors.New("the output was closed meanwhile")
	}
	o.session = s
	s.start()
	return nil
}

// firstMarks claims the partitions for this instance and names, before the
// first record, the target partitions that records will go to. Marks written
// by others between the reading of the topic and these decide who goes on.
func (s *session) firstMarks(ctx context.Context) error {
	o := s.out
	ctx, cancel := context.WithTimeout(ctx, firstMarksTimeout)
	defer cancel()
	statements, _ := s.gen.Statements(true)
	first, err := s.writeMarksAlone(ctx, s.client, statements)
	if err != nil {
		return err
	}
	if s.tx != nil { // whoever comes later would have made the commit fail
		return nil
	}
	entries, err := s.progress.Tail(ctx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !s.rivals(e) {
			continue
		}
		if e.Offset > first {
			return overtaken(o, e)
		}
		o.generation = e.Mark.Generation + 1
		return errOvertaken
	}
	return nil
}

// rivals tells whether a mark was written by an instance that has taken one of
// this relay's partitions over.
func (s *session) rivals(e progress.Entry) bool {
	if e.Mark.Instance == s.out.instance || e.Mark.Generation < s.out.generation || e.Key.RelayID != s.gen.RelayID {
		return false
	}
	if s.tx != nil && e.Key == ownerKey(s.gen.RelayID) {
		return true
	}
	for _, p := range s.gen.Parts {
		if p.Key(s.gen.RelayID) == e.Key {
			return true
		}
	}
	return false
}

func overtaken(o *Output, e progress.Entry) error {
	return &position.Stop{
		Reason: fmt.Sprintf("another instance with relay_id %q has taken over: its marks for %s have generation %d (instance %s), those of this instance %s generation %d",
			e.Key.RelayID, e.Key.Source, e.Mark.Generation, e.Mark.Instance, o.instance, o.generation),
		Cure: "run one instance per relay_id; if both are wanted, give one of them another relay_id",
	}
}

// writeMarks writes one mark per statement and waits for their
// acknowledgements. It returns the offset of the first.
func (s *session) writeMarks(ctx context.Context, statements []position.Statement) (int64, error) {
	return s.writeMarksWith(ctx, s.client, statements)
}

// writeMarksAlone writes marks that belong to no records: in a transaction of
// their own, if everything is.
func (s *session) writeMarksAlone(ctx context.Context, client *kgo.Client, statements []position.Statement) (first int64, err error) {
	if s.tx == nil {
		return s.writeMarksWith(ctx, client, statements)
	}
	err = inTransaction(ctx, client, func() error {
		first, err = s.writeMarksWith(ctx, client, statements)
		return err
	})
	if err == nil {
		s.out.metrics.Marked()
	}
	return first, err
}

// inTransaction commits what write writes.
func inTransaction(ctx context.Context, client *kgo.Client, write func() error) error {
	if err := client.BeginTransaction(); err != nil {
		return err
	}
	err := write()
	if err == nil {
		if err = client.EndTransaction(ctx, kgo.TryCommit); err == nil {
			return nil
		}
		err = fmt.Errorf("committing marks: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = client.AbortBufferedRecords(ctx) // so that nobody need wait for the timeout
	_ = client.EndTransaction(ctx, kgo.TryAbort)
	return err
}

func (s *session) writeMarksWith(ctx context.Context, client *kgo.Client, statements []position.Statement) (int64, error) {
	records := make([]*kgo.Record, len(statements))
	for i, st := range statements {
		key, mark := s.mark(st)
		records[i] = markRecord(s.progress.Name, key, mark)
	}
	first, err := produceMarks(ctx, client, records)
	switch {
	case err != nil:
		s.out.countRefused(err)
	case len(records) > 0 && s.tx == nil:
		s.out.metrics.Marked()
	}
	return first, err
}

func markRecord(topic string, key position.Key, mark position.Mark) *kgo.Record {
	return &kgo.Record{Topic: topic, Key: []byte(key.String()), Value: mark.Encode()}
}

// produceMarks writes marks and waits for their acknowledgements. It returns the
// offset of the first.
func produceMarks(ctx context.Context, client *kgo.Client, records []*kgo.Record) (int64, error) {
	if len(records) == 0 {
		return 0, nil
	}
	type result struct {
		offset int64
		err    error
	}
	results := make(chan result, len(records))
	topic := records[0].Topic
	for _, r := range records {
		client.Produce(context.Background(), r, func(r *kgo.Record, err error) { results <- result{r.Offset, err} })
	}
	first := int64(-1)
	for range records {
		select {
		case r := <-results:
			if r.err != nil {
				return 0, fmt.Errorf("writing marks to %q: %w", topic, r.err)
			}
			if first < 0 || r.offset < first {
				first = r.offset
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("writing marks to %q: %w", topic, ctx.Err())
		}
	}
	return first, nil
}

func (s *session) mark(st position.Statement) (position.Key, position.Mark) {
	part := &s.gen.Parts[st.Part]
	m := position.Mark{
		Next: st.Next, Covered: make(map[int32]int64, len(st.Covered)),
		TargetTopicID: part.TargetTopicID, Sources: s.gen.SourcesOf(st.Part),
		Generation: s.out.generation, Instance: s.out.instance, Partitions: part.SourcePartitions, Pairs: st.Pairs,
		Transactional: s.tx != nil,
	}
	for slot, end := range st.Covered {
		m.Covered[s.gen.Slots[slot].Partition] = end
	}
	return part.Key(s.gen.RelayID), m
}

// keepMarks writes marks while positions move.
func (s *session) keepMarks(ctx context.Context) {
	tick := time.NewTicker(markInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.gen.MarkDue():
		}
		statements, _ := s.gen.Statements(false)
		if _, err := s.writeMarks(ctx, statements); err != nil {
			if ctx.Err() == nil {
				s.gen.Break(err)
			}
			return
		}
	}
}

// settle ends a drained generation whose session is closed, so that nothing of
// it is on its way any more. Where it was disowned, marks are written
// that prove no more than is certain: nothing that stands in the target counts,
// what is in doubt is read again. Then the relay stops.
func (s *session) settle(ctx context.Context) error {
	d := s.gen.Disowned()
	if d == nil {
		return nil
	}
	stop := &position.Stop{Reason: d.Err.Error()}
	switch {
	case s.progress == nil:
	case s.tx != nil && !d.FromStart: // what is committed is certain, and its marks with it
	default:
		if err := s.disown(ctx, d); isStop(err) {
			return err
		} else if err != nil {
			return fmt.Errorf("after %w: %w", d.Err, err)
		}
		if s.tx != nil {
			stop.Reason += "; what was relayed since this start is relayed again"
		}
	}
	return stop
}

func (s *session) disown(ctx context.Context, d *relay.Disowned) error {
	c, err := s.out.admin()
	if err != nil {
		return err
	}
	marks, err := s.progress.Load(ctx)
	if err != nil {
		return err
	}
	for _, e := range marks {
		if s.rivals(e) { // they are its marks now
			return overtaken(s.out, e)
		}
	}
	var names []string
	for _, slot := range s.gen.Slots {
		if !slices.Contains(names, slot.Topic) {
			names = append(names, slot.Topic)
		}
	}
	ends, err := c.Offsets(ctx, kafka.HighWatermark, names...)
	if err != nil {
		return err
	}
	var statements []position.Statement
	for i, next := range s.gen.Certain(d) {
		st := position.Statement{Part: i, Next: next, Covered: map[int]int64{}, Pairs: s.gen.PairsBefore(i, next)}
		part := s.gen.Parts[i]
		for slot := part.FirstSlot; slot < part.FirstSlot+part.Slots; slot++ {
			st.Covered[slot] = ends[s.gen.Slots[slot]]
		}
		statements = append(statements, st)
	}
	ctx, cancel := context.WithTimeout(ctx, firstMarksTimeout)
	defer cancel()
	client, err := s.out.dial(s.out.conf.producer.Opts(s.out.conf.conn))
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = s.writeMarksAlone(ctx, client, statements)
	return err
}

// lastMarks writes what has moved since the last marks, if the session ends in
// good order.
func (s *session) lastMarks(ctx context.Context) {
	if s.tx != nil {
		ctx, cancel := context.WithTimeout(ctx, closeTimeout)
		defer cancel()
		s.tx.end(ctx)
		return
	}
	if s.progress == nil || s.gen.Broken() != nil || s.gen.Down() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	statements, _ := s.gen.Statements(false)
	if _, err := s.writeMarks(ctx, statements); err != nil {
		s.out.log.Debugf("The last marks were not written, the next start reads a little more: %v", err)
	}
}
