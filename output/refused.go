package output

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// recordErrors are refusals that lie in the record itself: sending it again
// will not help. Everything else (authorisation, quotas, leaders) may pass.
var recordErrors = []error{
	kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidTimestamp, kerr.InvalidRecord,
	kerr.CorruptMessage, kerr.PolicyViolation, kerr.UnsupportedForMessageFormat,
}

func liesInRecord(err error) bool {
	return slices.ContainsFunc(recordErrors, func(e error) bool { return errors.Is(err, e) })
}

// refusals remembers, across generations, up to which source offset records
// were refused for what lies in them. A broker refuses a whole batch for one
// record; so the next generation writes that stretch one record at a time, to
// find the one, and the second refusal of the same record is final.
type refusals struct {
	mu   sync.Mutex
	upTo map[position.TP]int64
}

// careful is the stretches to be written one record at a time: source
// partitions, and the last offset of each.
type careful map[position.TP]int64

func (f *refusals) note(g *relay.Generation, r *kgo.Record, err error) {
	if !liesInRecord(err) {
		return
	}
	o, ok := record.LastOrigin(r, g.OriginHeader)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.upTo == nil {
		f.upTo = map[position.TP]int64{}
	}
	tp := position.TP{Topic: o.Topic, Partition: o.Partition}
	f.upTo[tp] = max(f.upTo[tp], o.Offset)
}

// careful hands the stretches over to a new session.
func (f *refusals) careful() careful {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := careful(f.upTo)
	f.upTo = nil
	return c
}

// covers tells whether a ticket touches a stretch. A stretch ends with the
// first ticket that reaches past it. Only the ticket whose turn it is asks.
func (c careful) covers(g *relay.Generation, t *relay.Ticket) bool {
	covered := false
	for _, s := range t.Spans() {
		tp := g.Parts[s.Part].Source
		last, ok := c[tp]
		covered = covered || ok
		if ok && s.Next > last {
			delete(c, tp)
		}
	}
	return covered
}

// writeCarefully writes a batch one record at a time, within its turn and with
// nothing else under way: a refused record takes with it what is buffered
// behind it. held is what the caller has of s.room.
func (s *session) writeCarefully(ctx context.Context, p *prepared, held int64) error {
	t := p.ticket
	if err := s.room.Acquire(ctx, s.capacity-held); err != nil {
		return t.Fail(err)
	}
	defer s.room.Release(s.capacity - held)
	ends := make([]int64, len(p.touches))
	for i := range p.records {
		r := &p.records[i]
		err := s.produceOne(ctx, r)
		switch {
		case err == nil:
			ends[p.touch[i]] = r.Offset + 1
		case !liesInRecord(err):
			return t.Fail(fmt.Errorf("target partition %s/%d refused a record: %w", r.Topic, r.Partition, err))
		default:
			bad := &badMessage{p.sources[i], fmt.Errorf("target partition %s/%d will never take it: %w", r.Topic, r.Partition, err)}
			if !s.out.conf.dropOnError {
				stop := stopAt(bad)
				s.gen.Fatal(stop)
				return t.Fail(stop)
			}
			s.out.noteDropped(bad)
		}
	}
	t.Landed(p.touches, ends)
	t.Pass()
	return nil
}

func (s *session) produceOne(ctx context.Context, r *kgo.Record) error {
	done := make(chan error, 1)
	s.client.Produce(context.Background(), r, func(_ *kgo.Record, err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.aborted:
		return relay.ErrBroken
	}
}

// stopAt names the record the relay stops at, and the ways on.
func stopAt(bad *badMessage) error {
	return &position.Stop{
		Reason: fmt.Sprintf("stopped at %v; everything before it is in the target, nothing behind it", bad),
		Cure:   "mend the cause and restart, or set on_error: drop to leave such records out",
	}
}
