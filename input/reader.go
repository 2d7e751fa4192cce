package input

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
	"github.com/kafka-failover/kafka-failover/internal/untraced"
)

var (
	errAtEnd   = errors.New("everything that was there at start has been read")
	errTrouble = errors.New("the generation has ended or the target does not answer")
)

// reader fetches one generation's partitions from one source, which it owns. It
// owns the position of reading; acknowledgement is the generation's business.
type reader struct {
	in     *Input
	gen    *relay.Generation
	client *kgo.Client
	source *source
	began  time.Time
	// at is the next offset to read, per part: moved by ReadBatch's goroutine,
	// looked at by others.
	at     []atomic.Int64
	index  map[string][]int // topic -> partition -> part
	stopAt []int64          // per part, nil without stop_at_end
	// selection is what else is to be read once it appears.
	selection relay.Selection
	// glanced is where the survey's next glances begin.
	glanced int
	// epochs are the leader epochs under which each part was last examined. A
	// record of a later one may belong to another history.
	epochs []int32
	// pending is what was polled and not yet batched.
	pending []*kgo.Record
	blocks  int64
	holding atomic.Bool  // the window holds reading back
	polling atomic.Bool  // records are waited for
	moved   atomic.Int64 // when records came last, in nanoseconds since began

	mu    sync.Mutex
	err   error // what ended reading
	errAt time.Time
	poke  context.CancelFunc // ends the poll under way
	skips []skip             // found by the survey, not yet applied

	cancel context.CancelFunc
	wg     sync.WaitGroup
	follow func() // starts attend, once the pool knows that this source is read
}

func newReader(in *Input, gen *relay.Generation, s *source, next []int64) (*reader, error) {
	r := &reader{
		in: in, gen: gen, source: s, began: time.Now(), selection: in.selection,
		at: make([]atomic.Int64, len(next)), epochs: make([]int32, len(next)), index: map[string][]int{},
	}
	offsets := map[string]map[int32]kgo.Offset{}
	for i, p := range gen.Parts {
		r.at[i].Store(next[i])
		tp := p.Source
		r.epochs[i] = s.desc.Topics[tp.Topic].LeaderEpoch(tp.Partition)
		if offsets[tp.Topic] == nil {
			offsets[tp.Topic] = map[int32]kgo.Offset{}
		}
		offsets[tp.Topic][tp.Partition] = kgo.NoResetOffset().At(next[i])
		for int32(len(r.index[tp.Topic])) <= tp.Partition {
			r.index[tp.Topic] = append(r.index[tp.Topic], -1)
		}
		r.index[tp.Topic][tp.Partition] = i
		if in.stopAt != nil {
			r.stopAt = append(r.stopAt, in.stopAt[tp])
		}
	}
	consumer := in.conf.consumer
	consumer.Offsets = offsets
	client, err := kafka.Dial(consumer.Opts(s.conn))
	if err != nil {
		return nil, err
	}
	r.client = client
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.wg.Go(func() { r.survey(ctx) })
	r.wg.Go(func() { r.heed(ctx) })
	if len(in.selection.Patterns) > 0 && in.stopAt == nil {
		r.wg.Go(func() { r.lookForTopics(ctx) })
	}
	r.follow = func() { r.wg.Go(func() { r.attend(ctx) }) }
	return r, nil
}

// attend ends reading when the pool has a better source, or none.
func (r *reader) attend(ctx context.Context) {
	for {
		changed := r.in.pool.Changed()
		if err := r.in.better(r); err != nil {
			r.fail(err)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// grown tells whether the source has more partitions than are read.
func (r *reader) grown() bool {
	for topic, parts := range r.index {
		if int(r.in.pool.Partitions(r.source.index, topic)) > len(parts) {
			return true
		}
	}
	return false
}

// lastMoved is when records came last.
func (r *reader) lastMoved() time.Time { return r.began.Add(time.Duration(r.moved.Load())) }

// heed ends the poll under way when the generation gets into trouble.
func (r *reader) heed(ctx context.Context) {
	for r.gen.Broken() == nil {
		select {
		case <-r.gen.Trouble():
			r.interrupt()
		case <-ctx.Done():
			return
		}
		if r.gen.AwaitUp(ctx) != nil {
			return
		}
	}
}

func (r *reader) close() {
	r.cancel()
	r.wg.Wait()
	r.client.Close()
	r.source.close()
}

func (r *reader) positions() []int64 {
	out := make([]int64, len(r.at))
	for i := range r.at {
		out[i] = r.at[i].Load()
	}
	return out
}

// failure is what ended reading, or nil.
func (r *reader) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *reader) fail(err error) {
	r.mu.Lock()
	if r.err == nil {
		r.err, r.errAt = err, time.Now()
	}
	r.mu.Unlock()
	r.interrupt()
}

// failedAt is when reading was ended.
func (r *reader) failedAt() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errAt
}

func (r *reader) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.poke != nil {
		r.poke()
	}
}

// next returns the next batch with its ticket.
func (r *reader) next(ctx context.Context) (service.MessageBatch, *relay.Ticket, error) {
	for {
		if err := r.trouble(); err != nil {
			return nil, nil, err
		}
		r.applySkips()
		if len(r.pending) == 0 {
			if r.atEnd() {
				continue
			}
			if err := r.poll(ctx); err != nil {
				return nil, nil, err
			}
			continue
		}
		d := r.draft()
		if d.used == 0 { // the first record is a later leader's
			if err := r.recheck(ctx, r.pending[0]); err != nil {
				return nil, nil, err
			}
			continue
		}
		if len(d.sources) == 0 {
			r.commit(d)
			for _, s := range d.spans {
				r.gen.Skip(s.Part, s.Next)
			}
			continue
		}
		t, err := r.issue(ctx, d)
		if err != nil {
			return nil, nil, err
		}
		r.commit(d)
		return r.messages(t, d), t, nil
	}
}

func (r *reader) trouble() error {
	switch {
	case r.gen.Broken() != nil || r.gen.Down() != nil:
		return errTrouble
	case len(r.pending) == 0 && r.atEnd(): // whatever became of the source
		return errAtEnd
	}
	return r.failure()
}

func (r *reader) issue(ctx context.Context, d *draft) (*relay.Ticket, error) {
	r.holding.Store(true)
	load := relay.Load{Records: len(d.sources), Payload: d.bytes, Bytes: d.bytes + len(d.sources)*recordOverhead}
	t, err := r.gen.Issue(ctx, load, d.spans)
	r.holding.Store(false)
	if b := r.gen.Blocks(); b > r.blocks {
		r.in.metrics.Blocked(b - r.blocks)
		r.blocks = b
	}
	return t, err
}

// poll waits for records. It returns early, without error, when the survey has
// something to say, and with one when reading has to end.
func (r *reader) poll(ctx context.Context) error {
	pollCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	if r.err != nil || len(r.skips) > 0 {
		r.mu.Unlock()
		return nil
	}
	r.poke = cancel
	r.mu.Unlock()
	select {
	case <-r.gen.Trouble(): // it may have come before poke was set
		return errTrouble
	default:
	}
	r.polling.Store(true)
	fetches := r.client.PollRecords(pollCtx, r.in.conf.batchRecords)
	r.polling.Store(false)
	r.mu.Lock()
	r.poke = nil
	r.mu.Unlock()
	var bad error
	fetches.EachError(func(topic string, partition int32, err error) {
		if bad == nil && !errors.Is(err, context.Canceled) {
			bad = r.explain(position.TP{Topic: topic, Partition: partition}, err)
		}
	})
	if bad != nil {
		r.fail(bad)
		return bad
	}
	if r.pending = fetches.Records(); len(r.pending) > 0 {
		r.moved.Store(int64(time.Since(r.began)))
	}
	return ctx.Err()
}

// explain turns a fetch error into what it means. Whatever it is, reading
// begins anew behind it: what was polled with it is not used.
func (r *reader) explain(tp position.TP, err error) error {
	r.in.poolMetrics.FetchFailed(r.source.name, errors.Is(err, kgo.ErrClientClosed))
	var loss *kgo.ErrDataLoss
	if errors.As(err, &loss) { // the client would go on at the truncated end
		err := fmt.Errorf("source %s lost records: partition %s was read to offset %d and its log was then truncated to %d (unclean leader election)", r.source.name, tp, loss.ConsumedTo, loss.ResetTo)
		r.in.log.With("source", r.source.name, "partition", tp.String()).Warnf("%v; it is compared with what was relayed before it is read on", err)
		return err
	}
	if errors.Is(err, kerr.OffsetOutOfRange) {
		return fmt.Errorf("source %s: the position in %s lies outside the log", r.source.name, tp)
	}
	return fmt.Errorf("source %s, %s: %w", r.source.name, tp, r.source.conn.Explain(err))
}

// recheck examines a partition whose records' leader epoch rises: a new leader may
// hold another history than the one that was read (unclean election). In good
// order it holds the same.
func (r *reader) recheck(ctx context.Context, rec *kgo.Record) error {
	part := r.index[rec.Topic][rec.Partition]
	tp := r.gen.Parts[part].Source
	gctx, done := r.in.pool.Guard(ctx, r.source.index)
	defer done()
	s := *r.source
	err := s.look(gctx, r.in.relayed())
	if err == nil { // where records are read on is the client's business: only what lies before counts
		_, err = r.in.fit(gctx, &s, []claim{{tp: tp, next: max(r.at[part].Load(), s.starts[tp]), pairs: r.gen.Samples(part)}}, false)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("source %s, partition %s has a new leader (epoch %d): %w", s.name, tp, rec.LeaderEpoch, err)
		r.fail(err)
		return err
	}
	r.epochs[part] = max(rec.LeaderEpoch, s.desc.Topics[tp.Topic].LeaderEpoch(tp.Partition))
	return nil
}

func (r *reader) atEnd() bool {
	if r.stopAt == nil {
		return false
	}
	for i := range r.at {
		if r.at[i].Load() < r.stopAt[i] {
			return false
		}
	}
	return true
}

// draft is the next batch before it has a ticket.
type draft struct {
	spans   []relay.Span
	counts  []int // records of each span
	sources []record.Source
	used    int // of pending
	bytes   int
	loops   int
}

// recordOverhead is what a record costs in memory besides its bytes while it is
// under way: the record, its message and metadata, the record made of it.
const recordOverhead = 512

// draft takes records from pending until a limit is reached, or a record that
// a later leader wrote than the one under which its partition was examined.
func (r *reader) draft() *draft {
	d := &draft{}
	most := min(len(r.pending), r.in.conf.batchRecords)
	d.sources = make([]record.Source, 0, most)
	var before, last *kgo.Record
	here, part := -1, -1
	for _, rec := range r.pending[:most] {
		size := sizeOf(rec)
		if d.used > 0 && d.bytes+size > r.in.conf.batchMaxBytes {
			break
		}
		if before == nil || before.Partition != rec.Partition || before.Topic != rec.Topic {
			here = r.index[rec.Topic][rec.Partition]
		}
		if rec.LeaderEpoch > r.epochs[here] && r.epochs[here] >= 0 {
			break
		}
		before = rec
		d.used++
		if last == nil || last.Partition != rec.Partition || last.Topic != rec.Topic {
			if last != nil {
				d.sample(last)
			}
			part, last = here, nil
			if r.beyond(part, rec.Offset) {
				part = -1
			} else {
				d.spans = append(d.spans, relay.Span{Part: part, First: rec.Timestamp})
				d.counts = append(d.counts, 0)
			}
		}
		if part >= 0 && !r.beyond(part, rec.Offset) {
			d.spans[len(d.spans)-1].Next = rec.Offset + 1
			d.counts[len(d.counts)-1]++
			last = rec
			if r.gen.OriginHeader != "" && len(rec.Headers) > 0 && record.PassedThrough(rec, r.gen.OriginHeader, r.gen.RelayID) {
				d.loops++
				continue
			}
			d.bytes += size
			d.sources = append(d.sources, record.Source{Record: rec, Span: len(d.spans) - 1})
		}
	}
	if last != nil {
		d.sample(last)
	}
	return d
}

// beyond tells whether an offset lies behind what stop_at_end asks for.
func (r *reader) beyond(part int, offset int64) bool {
	return r.stopAt != nil && offset >= r.stopAt[part]
}

// sample notes the fingerprint of a span's last record.
func (d *draft) sample(rec *kgo.Record) {
	s := &d.spans[len(d.spans)-1]
	s.Pair, s.Last = position.Pair{Offset: rec.Offset, Fingerprint: record.Fingerprint(rec)}, rec.Timestamp
}

func sizeOf(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// commit moves the position of reading past the draft.
func (r *reader) commit(d *draft) {
	clear(r.pending[:d.used])
	r.pending = r.pending[d.used:]
	for i, s := range d.spans {
		r.at[s.Part].Store(s.Next)
		r.in.progress.Read(r.gen.Parts[s.Part].Source.Topic, d.counts[i])
	}
	if d.loops > 0 {
		r.in.metrics.Loops(int64(d.loops))
	}
	r.in.poolMetrics.Read(r.source.name, int64(d.used))
}

func (r *reader) messages(t *relay.Ticket, d *draft) service.MessageBatch {
	ctx := relay.WithTicket(untraced.With(context.Background()), t)
	shared := &record.Batch{Ticket: t.Number(), Standard: r.in.conf.standard, Cluster: r.source.name}
	for i := range d.sources {
		d.sources[i].Batch = shared
	}
	if r.gen.Direct {
		t.Carry(d.sources)
		r.in.engine.Received(len(d.sources) - 1)
		return service.MessageBatch{record.NewCarrier(ctx)}
	}
	batch := make(service.MessageBatch, len(d.sources))
	for i := range d.sources {
		if r.gen.IsAlone() {
			batch[i] = record.NewForeign(ctx, &d.sources[i])
		} else {
			batch[i] = record.NewMessage(ctx, &d.sources[i])
		}
	}
	return batch
}
