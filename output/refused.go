package output

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	// single: in transactions, stretches are to be written one record at a time.
	single bool
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

// known are the records that are condemned, from these positions on: what lies
// before them is done.
func (f *refusals) known(positions map[position.TP]int64) map[position.TP]map[int64]error {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[position.TP]map[int64]error{}
	for tp, records := range f.condemned {
		maps.DeleteFunc(records, func(offset int64, _ error) bool { return offset < positions[tp] })
		if len(records) > 0 {
			out[tp] = maps.Clone(records)
		}
	}
	return out
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

func (f *refusals) setSingle(single bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.single = single
}

// take hands the stretches over to a new session, and tells whether to write
// them one record at a time.
func (f *refusals) take() (c careful, single bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, single = careful(f.upTo), f.single
	f.upTo, f.single = nil, false
	return c, single
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
		s.out.metrics.Retried(1)
	case s.tx == nil && p.ticket.Number() == 0:
		n = min(1, len(p.records))
	}
	if n == 0 {
		return 0, nil
	}
	return n, s.quiet(ctx, held)
}

// probeSize is how many records are tried together first, in a transaction.
const probeSize = 128

// probe finds, of the first n records, all that will never be taken. They are
// written in stretches, and those of a stretch that is refused one at a time:
// with them the transaction is lost anyway, and the next one does without them.
func (d *delivery) probe(ctx context.Context, n int) error {
	var first *badMessage
	size, lost := probeSize, false
	if d.s.single {
		size = 1
	}
	for from := 0; from < n; from += size {
		stretch := d.p.records[from:min(n, from+size)]
		err := d.s.produceAll(ctx, stretch)
		if err == nil {
			for i := range stretch {
				d.wrote(int(d.p.touch[from+i]), &stretch[i])
			}
			d.s.gen.Touch()
			continue
		}
		d.s.out.countRefused(err)
		if !liesInRecord(err) {
			return d.unfinished(err, d.s.single)
		}
		lost = true
		for i := range stretch {
			switch err := d.s.produceAll(ctx, stretch[i:i+1]); {
			case err == nil:
			case liesInRecord(err):
				bad := &badMessage{source: d.p.sources[from+i], err: fmt.Errorf("target partition %s/%d will never take it: %w", stretch[i].Topic, stretch[i].Partition, err)}
				d.s.out.refused.condemn(bad)
				d.s.out.metrics.GivenUp()
				if first == nil {
					first = bad
				}
			default:
				return d.unfinished(err, d.s.single)
			}
		}
	}
	d.from = n
	switch {
	case first != nil:
		return first
	case lost: // each is taken alone, and some of them were written twice
		return d.unfinished(errors.New("records were refused together and taken alone; they are written one at a time"), true)
	}
	return nil
}

// unfinished has the next generation write the stretch again.
func (d *delivery) unfinished(err error, single bool) error {
	d.s.out.refused.setSingle(single)
	for span, last := range d.p.last {
		if last >= 0 {
			part := d.s.gen.Parts[d.p.ticket.Spans()[span].Part]
			d.s.out.refused.note(part.Source, last)
		}
	}
	return err
}

// handAlone writes the first n records one at a time.
func (d *delivery) handAlone(ctx context.Context, n int) error {
	if d.s.tx != nil {
		return d.probe(ctx, n)
	}
	for ; d.from < n; d.from++ {
		if d.s.gen.Broken() != nil {
			return relay.ErrBroken
		}
		if err := d.bury(ctx, d.from); err != nil {
			return err
		}
		r := &d.p.records[d.from]
		switch err := d.s.produceAll(ctx, d.p.records[d.from:d.from+1]); {
		case err == nil:
			d.wrote(int(d.p.touch[d.from]), r)
			d.s.gen.Touch()
		case !liesInRecord(err):
			d.s.out.countRefused(err)
			return fmt.Errorf("target partition %s/%d refused a record: %w", r.Topic, r.Partition, err)
		default:
			bad := &badMessage{source: d.p.sources[d.from], err: fmt.Errorf("target partition %s/%d will never take it: %w", r.Topic, r.Partition, err)}
			d.s.out.metrics.GivenUp()
			if d.s.gen.Strict || d.s.stopsAt(bad) {
				return stopAt(bad)
			}
			if d.s.out.conf.onError == onErrorDeadLetter {
				if err := d.s.deadLetters(ctx, []*badMessage{bad}); err != nil {
					return err
				}
				continue
			}
			d.s.out.noteLeftOut(bad)
		}
	}
	return nil
}

// bury writes the dead letters that come before the record at an index.
func (d *delivery) bury(ctx context.Context, before int) error {
	n := d.buried
	for n < len(d.p.dead) && d.p.dead[n].before <= before {
		n++
	}
	err := d.s.deadLetters(ctx, d.p.dead[d.buried:n])
	d.buried = n
	return err
}

// produceAll writes records and waits for them; it returns the first error.
func (s *session) produceAll(ctx context.Context, records []kgo.Record) error {
	done := make(chan error, len(records))
	for i := range records {
		s.client.Produce(context.Background(), &records[i], func(_ *kgo.Record, err error) { done <- err })
	}
	var first error
	for range records {
		select {
		case err := <-done:
			if first == nil {
				first = err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.aborted:
			return relay.ErrBroken
		}
	}
	return first
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
		Cure:   "mend the cause and restart, or set on_error: dead_letter (or drop) to leave such records out",
	}
}
