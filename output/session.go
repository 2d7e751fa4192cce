package output

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
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
	progress *progress.Topic // nil with resume: watermark
	topics   map[string]kafka.Topic
	rules    record.Rules
	hasher   kgo.TopicPartitioner
	// room bounds the records handed to the producer, so that Produce itself
	// never blocks: blocking there could not be cancelled.
	room     *semaphore.Weighted
	capacity int64
	careful  careful

	// aborted is closed when waiting for acknowledgements has become pointless.
	aborted chan struct{}
	stop    context.CancelFunc
	running sync.WaitGroup
}

func (o *Output) newSession(g *relay.Generation, f *found) (*session, error) {
	client, err := kafka.Dial(o.conf.producer.Opts(o.conf.conn))
	if err != nil {
		return nil, err
	}
	s := &session{
		out: o, gen: g, client: client, progress: f.progress, topics: f.topics,
		rules:    o.conf.rules,
		hasher:   kgo.StickyKeyPartitioner(nil).ForTopic(""),
		capacity: int64(o.conf.maxBuffered),
		room:     semaphore.NewWeighted(int64(o.conf.maxBuffered)),
		careful:  o.refused.careful(),
		aborted:  make(chan struct{}),
	}
	s.rules.Standard = g.Standard
	return s, nil
}

// start begins to write marks and to watch the target.
func (s *session) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.running.Go(func() { s.watch(ctx) })
	if s.progress != nil {
		s.running.Go(func() { s.keepMarks(ctx) })
	}
}

// close ends the session. Records still buffered fail; whoever waits for them
// is told.
func (s *session) close() {
	if s.stop != nil {
		s.stop()
	}
	s.client.Close()
	s.running.Wait()
}

// write is the way of one batch: prepared in parallel with others, handed to
// the producer in its turn, and waited for while the next ones follow.
func (s *session) write(ctx context.Context, t *relay.Ticket, batch service.MessageBatch) error {
	p, err := s.prepare(t, batch)
	if bad := (*badMessage)(nil); errors.As(err, &bad) {
		return s.giveUp(ctx, t, bad)
	}
	if err != nil {
		s.gen.Fatal(err)
		return t.Fail(err)
	}
	n := min(int64(len(p.records)), s.capacity)
	if err := t.Turn(ctx); err != nil {
		return t.Fail(err)
	}
	if err := s.room.Acquire(ctx, n); err != nil {
		return t.Fail(err)
	}
	defer s.room.Release(n)
	if err := t.Hand(p.touches); err != nil {
		return t.Fail(err)
	}
	p.finish(s.gen)
	if s.careful.covers(s.gen, t) {
		return s.writeCarefully(ctx, p, n)
	}
	d := newDelivery(s, p)
	d.hand()
	t.Pass()
	return d.await(ctx)
}

// giveUp stops the relay at a message that must not be relayed, once all
// earlier batches have been handed over: the target ends with the prefix.
func (s *session) giveUp(ctx context.Context, t *relay.Ticket, bad *badMessage) error {
	if err := t.Turn(ctx); err != nil {
		return t.Fail(err)
	}
	err := stopAt(bad)
	s.gen.Fatal(err)
	return t.Fail(err)
}

// delivery waits for a batch's records to be acknowledged.
type delivery struct {
	s    *session
	p    *prepared
	ends []int64 // per touch: the end offset of its records
	left int
	done chan struct{}
	err  error
	// failed is the first record that was not acknowledged.
	failed *kgo.Record
}

func newDelivery(s *session, p *prepared) *delivery {
	return &delivery{s: s, p: p, ends: make([]int64, len(p.touches)), left: len(p.records), done: make(chan struct{})}
}

// hand gives all records to the producer. Their contexts cannot be cancelled:
// a cancelled record would leave a hole.
func (d *delivery) hand() {
	if d.left == 0 {
		close(d.done)
		return
	}
	promises := make([]func(*kgo.Record, error), len(d.ends))
	for i := range promises {
		promises[i] = d.promise(i)
	}
	ctx := context.Background()
	for i := range d.p.records {
		d.s.client.Produce(ctx, &d.p.records[i], promises[d.p.touch[i]])
	}
}

// promise is called once per record of the touch at index i. The client calls
// promises one after another, so they share fields without a lock, and must
// not block.
func (d *delivery) promise(i int) func(*kgo.Record, error) {
	return func(r *kgo.Record, err error) {
		if err != nil {
			d.refused(r, err)
		} else if r.Offset >= d.ends[i] {
			d.ends[i] = r.Offset + 1
		}
		if d.left--; d.left == 0 {
			close(d.done)
		}
	}
}

func (d *delivery) refused(r *kgo.Record, err error) {
	if d.err == nil {
		d.err, d.failed = err, r
		d.s.gen.Break(fmt.Errorf("target partition %s/%d refused a record batch: %w", r.Topic, r.Partition, err))
	}
	d.s.out.refused.note(d.s.gen, r, err)
}

// await returns once every record is acknowledged, or one is refused, or the
// stream is stopped for good.
func (d *delivery) await(ctx context.Context) error {
	t := d.p.ticket
	select {
	case <-d.done:
	case <-ctx.Done():
		return t.Fail(ctx.Err())
	case <-d.s.aborted:
		return t.Fail(relay.ErrBroken)
	}
	if d.err != nil {
		return t.Fail(fmt.Errorf("target partition %s/%d refused a record batch: %w", d.failed.Topic, d.failed.Partition, d.err))
	}
	if err := d.checkStrict(); err != nil {
		d.s.gen.Fatal(err)
		return t.Fail(err)
	}
	t.Landed(d.p.touches, d.ends)
	return nil
}

// checkStrict makes sure that offsets stay equal where nothing else tells how
// far the target has come.
func (d *delivery) checkStrict() error {
	if !d.s.gen.Strict {
		return nil
	}
	for i := range d.p.records {
		r, src := &d.p.records[i], d.p.sources[i].Record
		if r.Offset != src.Offset {
			return fmt.Errorf("with resume: watermark every record must keep its offset, but source record %s offset %d was written to %s/%d at offset %d: a record was dropped, another writer is in the target, or the source has gaps; use resume: auto", tpOf(d.p.sources[i]), src.Offset, r.Topic, r.Partition, r.Offset)
		}
	}
	return nil
}
