package output

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/progress"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// session is the output's side of one generation: one producer client, closed
// only after all its promises, and the goroutines that write marks and watch
// the target. After a refused batch franz-go fails what is buffered and goes on
// under a new epoch, so a client that has failed once is never used again.
type session struct {
	out      *Output
	gen      *relay.Generation
	client   *kgo.Client
	hangUp   func()          // closes client, once
	progress *progress.Topic // nil with resume: watermark
	topics   map[string]kafka.Topic
	rules    record.Rules
	// room bounds the records handed to the producer, so that Produce itself
	// never blocks: blocking there could not be cancelled.
	room     *semaphore.Weighted
	capacity int64
	careful  careful
	// single: careful stretches are written one record at a time.
	single bool
	// condemned are records that are known to be refused.
	condemned map[position.TP]map[int64]error
	// content are the topics that records were sent to by content.
	content sync.Map // name -> kafka.Topic
	lacking sync.Map // name -> lacking
	// tx is nil but with delivery: exactly_once.
	tx *transactor
	// refusedIn holds, per slot, the first delivery that was refused there.
	refusedIn map[int]*delivery

	// aborted is closed when waiting for acknowledgements has become pointless.
	aborted chan struct{}
	stop    context.CancelFunc
	running sync.WaitGroup
}

func (o *Output) newSession(g *relay.Generation, f *found) (*session, error) {
	client := f.client // in a transaction from the first record on
	if client == nil && o.conf.exactly {
		return nil, errors.New("output: Begin without Stand")
	}
	if client == nil {
		var err error
		if client, err = o.dial(o.conf.producer.Opts(o.conf.conn)); err != nil {
			return nil, err
		}
	}
	s := &session{
		out: o, gen: g, client: client, progress: f.progress, topics: f.topics,
		rules:    o.conf.rules,
		capacity: int64(o.conf.maxBuffered),
		room:     semaphore.NewWeighted(int64(o.conf.maxBuffered)),
		aborted:  make(chan struct{}), refusedIn: map[int]*delivery{},
	}
	s.rules.Standard = g.Standard
	s.hangUp = sync.OnceFunc(client.Close)
	if o.conf.exactly {
		s.tx = newTransactor(s)
	}
	return s, nil
}

// start begins to write marks and to watch the target.
func (s *session) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	for _, p := range s.gen.Parts { // shown before the first record
		if p.Slots == 1 {
			s.out.metrics.Relayed(metrics.NewPath(p.Source.Topic, p.Source.Partition, p.Route.Target, s.gen.Slots[p.FirstSlot].Partition), 0)
		}
	}
	s.running.Go(func() { s.watch(ctx) })
	switch {
	case s.tx != nil:
		s.running.Go(func() { s.tx.run(ctx) })
	case s.progress != nil:
		s.running.Go(func() { s.keepMarks(ctx) })
	}
}

// close ends the session. Records still buffered fail; whoever waits for them
// is told.
func (s *session) close() {
	if s.stop != nil {
		s.stop()
	}
	s.hangUp()
	s.running.Wait()
}

// write is the way of one batch: prepared in parallel with others, handed to
// the producer in its turn, and waited for while the next ones follow. What goes
// wrong is told to the generation.
func (s *session) write(ctx context.Context, t *relay.Ticket, batch service.MessageBatch) {
	p, err := s.prepare(t, batch)
	if ask := (askError{}); errors.As(err, &ask) { // the target does not answer
		t.Fail(err)
		return
	}
	if isStop(err) {
		s.fatal(t, err)
		return
	}
	if err != nil { // the batch is not what was read; what is missing may not be filtered
		s.gen.Disown(err, s.tx == nil) // what is committed was acknowledged as a whole
		t.Fail(err)
		return
	}
	if err := t.Turn(ctx); err != nil {
		t.Fail(err)
		return
	}
	if s.tx != nil && p.bad != nil { // no part of a batch is committed
		s.stopBefore(ctx, p)
		return
	}
	n := min(int64(len(p.records)+len(p.dead)), s.capacity)
	if err := s.room.Acquire(ctx, n); err != nil {
		t.Fail(err)
		return
	}
	defer s.room.Release(n)
	if err := t.Hand(p.touches); err != nil {
		t.Fail(err)
		return
	}
	if err := p.finish(s.gen); err != nil {
		s.fatal(t, err)
		return
	}
	if s.tx == nil {
		s.deliver(ctx, p, n)
		return
	}
	if err := s.tx.join(ctx, t); err != nil {
		t.Fail(err)
		return
	}
	s.deliver(ctx, p, n)
}

// deliver hands a batch over within its turn and waits for it.
func (s *session) deliver(ctx context.Context, p *prepared, held int64) {
	t, d := p.ticket, newDelivery(s, p)
	alone, err := s.alone(ctx, p, held)
	if err == nil {
		err = d.handAlone(ctx, alone)
		d.count()
	}
	if err == nil {
		err = d.bury(ctx, len(p.records))
	}
	if err == nil && len(p.dead) > 0 && s.gen.Broken() != nil {
		err = relay.ErrBroken // while the letters were written
	}
	if err == nil {
		d.hand()
		if p.bad == nil && !s.gen.Strict {
			t.Pass()
		}
		err = d.await(ctx)
	}
	var stop *position.Stop
	switch {
	case errors.As(err, &stop):
		s.fatal(t, stop)
	case err != nil:
		t.Fail(err)
	case p.bad != nil: // once all before it is in the target; nothing follows
		if err := s.quiet(ctx, held); err != nil {
			t.Fail(err)
			return
		}
		s.fatal(t, stopAt(p.bad))
	default:
		if len(p.records) > 0 {
			s.out.metrics.Flushed(len(p.records), time.Since(d.began))
		}
		t.Landed(p.touches, d.ends)
		t.Pass()
	}
}

// stopBefore stops the relay before a batch with a record that cannot be
// relayed, once everything before the batch is committed.
func (s *session) stopBefore(ctx context.Context, p *prepared) {
	if err := s.tx.flush(ctx); err != nil {
		p.ticket.Fail(err)
		return
	}
	s.fatal(p.ticket, stopBefore(p.bad))
}

// quiet waits, within a turn, until nothing else is under way. held is what the
// caller has of s.room.
func (s *session) quiet(ctx context.Context, held int64) error {
	if err := s.room.Acquire(ctx, s.capacity-held); err != nil {
		return err
	}
	s.room.Release(s.capacity - held)
	if s.gen.Broken() != nil {
		return relay.ErrBroken
	}
	return nil
}

// fatal stops the relay at a ticket.
func (s *session) fatal(t *relay.Ticket, err error) {
	s.gen.Fatal(err)
	t.Fail(err)
}

// delivery waits for a batch's records to be acknowledged.
type delivery struct {
	s       *session
	p       *prepared
	began   time.Time
	ends    []int64 // per touch: the end offset of its records
	written []int64 // per touch: records acknowledged and not counted yet
	from    int     // records before it have been handled one by one
	buried  int     // of the dead letters: written
	left    int
	done    chan struct{}
	err     error
}

func newDelivery(s *session, p *prepared) *delivery {
	n := len(p.touches)
	return &delivery{s: s, p: p, began: time.Now(), ends: make([]int64, n), written: make([]int64, n), done: make(chan struct{})}
}

// count counts what was acknowledged, also of a batch of which some was refused.
// In a transaction it counts once that is committed.
func (d *delivery) count() {
	for i, n := range d.written {
		if n == 0 {
			continue
		}
		d.written[i] = 0
		from, to := d.s.gen.Parts[d.p.ticket.Spans()[d.p.touches[i].Span].Part].Source, d.p.targets[i]
		path := metrics.NewPath(from.Topic, from.Partition, to.Topic, to.Partition)
		if d.s.tx != nil {
			d.s.tx.count(path, n)
		} else {
			d.s.out.metrics.Relayed(path, n)
		}
	}
}

// hand gives the records from d.from on to the producer. Their contexts cannot
// be cancelled: a cancelled record would leave a hole.
func (d *delivery) hand() {
	d.left = len(d.p.records) - d.from
	if d.left == 0 {
		close(d.done)
		return
	}
	promises := make([]func(*kgo.Record, error), len(d.ends))
	for i := range promises {
		promises[i] = d.promise(i)
	}
	ctx := context.Background()
	for i := d.from; i < len(d.p.records); i++ {
		d.s.client.Produce(ctx, &d.p.records[i], promises[d.p.touch[i]])
	}
}

// promise is called once per record of the touch at index i. The client calls
// promises one after another, so they share fields without a lock, and must
// not block.
func (d *delivery) promise(i int) func(*kgo.Record, error) {
	return func(r *kgo.Record, err error) {
		if err != nil {
			d.refused(i, r, err)
		} else {
			d.wrote(i, r)
		}
		if d.left--; d.left == 0 {
			close(d.done)
		}
	}
}

func (d *delivery) wrote(touch int, r *kgo.Record) {
	d.ends[touch] = max(d.ends[touch], r.Offset+1)
	d.written[touch]++
}

func (d *delivery) refused(touch int, r *kgo.Record, err error) {
	if d.err == nil {
		d.s.out.countRefused(err)
		d.err = fmt.Errorf("target partition %s/%d refused a record batch: %w", r.Topic, r.Partition, d.s.out.conf.conn.Explain(err))
		d.s.gen.Break(d.err)
	}
	if t := d.p.touches[touch]; liesInRecord(err) && d.firstIn(t.Slot) {
		part := d.s.gen.Parts[d.p.ticket.Spans()[t.Span].Part]
		d.s.out.refused.note(part.Source, d.p.last[t.Span])
	}
}

// firstIn tells whether d is the first delivery of which something was refused
// in this slot: what is buffered behind a refused batch is failed with it, by
// the client. Only promises call it, one after another.
func (d *delivery) firstIn(slot int) bool {
	if d.s.refusedIn[slot] == nil {
		d.s.refusedIn[slot] = d
	}
	return d.s.refusedIn[slot] == d
}

// await returns once every record is acknowledged or refused, or the stream is
// stopped for good.
func (d *delivery) await(ctx context.Context) error {
	select {
	case <-d.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-d.s.aborted:
		return relay.ErrBroken
	}
	d.count()
	if err := d.checkStrict(); err != nil {
		return err
	}
	return d.err
}

// checkStrict makes sure, where nothing else tells how far the target has come,
// that what was acknowledged stands at its source offset.
func (d *delivery) checkStrict() error {
	if !d.s.gen.Strict {
		return nil
	}
	for i := range d.p.records {
		r, src := &d.p.records[i], d.p.sources[i].Record
		if r.Offset != src.Offset && (d.err == nil || r.Offset > 0) {
			return &position.Stop{
				Reason: fmt.Sprintf("with resume: watermark every record must keep its offset, but source record %s offset %d was written to %s/%d at offset %d: another writer is in the target, or a batch before it was refused", tpOf(d.p.sources[i]), src.Offset, r.Topic, r.Partition, r.Offset),
				Cure:   "truncate the target to equal offsets or copy it anew; use resume: auto",
			}
		}
	}
	return nil
}
