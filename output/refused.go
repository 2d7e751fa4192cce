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
	// condemned are records that were refused alone, with the reason: in a
	// transaction nothing can be left out once it was tried.
	condemned map[position.TP]map[int64]error
}

// condemn remembers a record that will never be taken.
func (f *refusals) condemn(bad *badMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tp := tpOf(bad.source)
	if f.condemned == nil {
		f.condemned = map[position.TP]map[int64]error{}
	}
	if f.condemned[tp] == nil {
		f.condemned[tp] = map[int64]error{}
	}
	f.condemned[tp][bad.source.Record.Offset] = bad.err
}

// why a record is condemned; nil if it is not.
func (f *refusals) why(tp position.TP, offset int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.condemned[tp][offset]
}

// any tells whether anything is condemned, so that few records are looked up.
func (f *refusals) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.condemned) > 0
}

// careful is the stretches to be written one record at a time: source
// partitions, and the last offset of each.
type careful map[position.TP]int64

func (f *refusals) note(tp position.TP, last int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.upTo == nil {
		f.upTo = map[position.TP]int64{}
	}
	f.upTo[tp] = max(f.upTo[tp], last)
}

// take hands the stretches over to a new session.
func (f *refusals) take() careful {
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

// alone says how many records of a batch are to be written one at a time: all
// of them in a stretch that was refused, and the very first of a generation,
// since a relay that is restarted again and again at a poison record would
// otherwise each time write a window behind it. It waits until nothing else is
// under way: a refused record takes with it what is buffered behind it.
func (s *session) alone(ctx context.Context, p *prepared, held int64) (int, error) {
	n := 0
	switch {
	case s.careful.covers(s.gen, p.ticket):
		n = len(p.records)
	case s.tx == nil && p.ticket.Number() == 0:
		n = min(1, len(p.records))
	}
	if n == 0 {
		return 0, nil
	}
	return n, s.quiet(ctx, held)
}

// handAlone writes the first n records one at a time.
func (d *delivery) handAlone(ctx context.Context, n int) error {
	for ; d.from < n; d.from++ {
		if d.s.gen.Broken() != nil {
			return relay.ErrBroken
		}
		r := &d.p.records[d.from]
		switch err := d.s.produceOne(ctx, r); {
		case err == nil:
			d.ends[d.p.touch[d.from]] = r.Offset + 1
			d.s.gen.Touch()
		case !liesInRecord(err):
			return fmt.Errorf("target partition %s/%d refused a record: %w", r.Topic, r.Partition, err)
		default:
			bad := &badMessage{d.p.sources[d.from], fmt.Errorf("target partition %s/%d will never take it: %w", r.Topic, r.Partition, err)}
			if d.s.tx != nil { // with it the whole transaction; the next one does without
				d.s.out.refused.condemn(bad)
				return bad
			}
			if d.s.gen.Strict || !d.s.out.conf.dropOnError {
				return stopAt(bad)
			}
			d.s.out.noteDropped(bad)
		}
	}
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
	return stop(bad, "everything before it is in the target, nothing behind it")
}

// stopBefore is the same in transactions, which take no part of a batch.
func stopBefore(bad *badMessage) error {
	return stop(bad, "everything before the batch it was read in is committed, nothing behind that")
}

func stop(bad *badMessage, stands string) error {
	return &position.Stop{
		Reason: fmt.Sprintf("stopped at %v; %s", bad, stands),
		Cure:   "mend the cause and restart, or set on_error: drop to leave such records out",
	}
}
