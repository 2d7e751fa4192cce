package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

// partition reads one partition from one offset up to another.
type partition struct {
	cluster   *kafka.Cluster
	tp        position.TP
	from, to  int64
	committed bool
	bytes     int32
	passed    func(n int64) // told how many offsets were passed
}

// patience is how long a partition may give nothing before reading is given
// up: a broker that dies is missed by the others only after seconds.
const patience = time.Minute

// each calls fn for each chunk of records, and gone where retention came by.
func (p partition) each(ctx context.Context, fn func([]*kgo.Record) error, gone func(from, to int64) error) error {
	moved := time.Now()
	var reader *kafka.Reader
	for p.from < p.to {
		next, err := p.chunk(ctx, &reader, fn, gone)
		switch {
		case next > p.from:
			p.passed(min(next, p.to) - p.from)
			p.from, moved = next, time.Now()
		case err != nil && !errors.As(err, &transient{}), ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case time.Since(moved) > patience:
			return fmt.Errorf("%s of %s gives nothing from offset %d on for %s: %w", p.tp, p.cluster.Conn.Name, p.from, patience, err)
		default: // the leader may have moved
			reader = nil
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// transient is an error that may pass.
type transient struct{ error }

func (t transient) Unwrap() error { return t.error }

var errNothing = transient{errors.New("the broker returns nothing")}

// chunk reads once, and returns where to read on.
func (p partition) chunk(ctx context.Context, reader **kafka.Reader, fn func([]*kgo.Record) error, gone func(from, to int64) error) (int64, error) {
	if *reader == nil {
		d, err := p.cluster.Describe(ctx, p.tp.Topic)
		if err != nil {
			return 0, transient{err}
		}
		if t := d.Topics[p.tp.Topic]; t.Missing() {
			return 0, fmt.Errorf("topic %q of %s was deleted meanwhile", p.tp.Topic, p.cluster.Conn.Name)
		}
		*reader = p.cluster.Reader(d, p.committed).Sized(p.bytes)
	}
	c, err := (*reader).Fetch(ctx, p.tp, p.from)
	if errors.Is(err, kerr.OffsetOutOfRange) { // retention came by
		starts, err := p.cluster.Offsets(ctx, kafka.LogStart, p.tp.Topic)
		if err != nil {
			return 0, transient{err}
		}
		start := min(starts[p.tp], p.to)
		if start <= p.from {
			return 0, errNothing
		}
		return start, gone(p.from, start)
	}
	if err != nil {
		return 0, transient{err}
	}
	records := c.Records
	for len(records) > 0 && records[len(records)-1].Offset >= p.to {
		records = records[:len(records)-1]
	}
	if len(records) > 0 {
		if err := fn(records); err != nil {
			return 0, err
		}
	}
	if c.Next <= p.from {
		return 0, errNothing
	}
	return c.Next, nil
}

// readAhead is a Stream: one chunk is ready while the next one is made.
type readAhead[T any] struct {
	part    partition
	convert func(context.Context, []*kgo.Record) ([]T, error)
	gone    func(from, to int64) T
	chunks  chan []T
	err     error
	cancel  context.CancelFunc
	done    chan struct{}
}

// stream reads a partition as items; nothing is read before the first Next.
func stream[T any](p partition, convert func(context.Context, []*kgo.Record) ([]T, error), gone func(from, to int64) T) Stream[T] {
	return &readAhead[T]{part: p, convert: convert, gone: gone}
}

// Next implements Stream.
func (r *readAhead[T]) Next(ctx context.Context) ([]T, error) {
	if r.chunks == nil {
		r.start()
	}
	select {
	case chunk, ok := <-r.chunks:
		if !ok {
			return nil, r.err
		}
		return chunk, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *readAhead[T]) start() {
	r.chunks, r.done = make(chan []T), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	give := func(chunk []T) error {
		if len(chunk) == 0 {
			return nil
		}
		select {
		case r.chunks <- chunk:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() {
		defer close(r.done)
		defer close(r.chunks)
		r.err = r.part.each(ctx, func(records []*kgo.Record) error {
			chunk, err := r.convert(ctx, records)
			return errors.Join(err, give(chunk))
		}, func(from, to int64) error { return give([]T{r.gone(from, to)}) })
	}()
}

// Close ends reading.
func (r *readAhead[T]) Close() {
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
}
