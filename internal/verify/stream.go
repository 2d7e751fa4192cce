package verify

import (
	"context"
	"errors"
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

// attempts is how often in a row a fetch may fail before reading is given up:
// leaders move.
const attempts = 10

// each calls fn for each chunk of records.
func (p partition) each(ctx context.Context, fn func([]*kgo.Record) error) error {
	var reader *kafka.Reader
	for failed := 0; p.from < p.to; {
		if reader == nil {
			d, err := p.cluster.Describe(ctx, p.tp.Topic)
			if err != nil {
				return err
			}
			reader = p.cluster.Reader(d, p.committed).Sized(p.bytes)
		}
		c, err := reader.Fetch(ctx, p.tp, p.from)
		switch {
		case err == nil:
			failed = 0
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, kerr.OffsetOutOfRange): // retention came by
			next, err := p.cluster.Offsets(ctx, kafka.LogStart, p.tp.Topic)
			if err != nil || next[p.tp] <= p.from {
				return errors.Join(err, errors.New(p.tp.String()+" has become shorter while it was read"))
			}
			p.passed(next[p.tp] - p.from)
			p.from = next[p.tp]
			continue
		default:
			if failed++; failed > attempts {
				return err
			}
			reader = nil
			select {
			case <-time.After(time.Duration(failed) * 50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		records := c.Records
		for len(records) > 0 && records[len(records)-1].Offset >= p.to {
			records = records[:len(records)-1]
		}
		if len(records) > 0 {
			if err := fn(records); err != nil {
				return err
			}
		}
		next := min(c.Next, p.to)
		if next <= p.from {
			return errors.New(p.tp.String() + " of " + p.cluster.Conn.Name + " gives nothing more though its end is not reached")
		}
		p.passed(next - p.from)
		p.from = next
	}
	return nil
}

// reading ahead: one chunk is ready while the next one is made.
type readAhead[T any] struct {
	part    partition
	convert func(context.Context, []*kgo.Record) ([]T, error)
	chunks  chan []T
	err     error
	cancel  context.CancelFunc
	done    chan struct{}
}

// stream reads a partition as items; nothing is read before the first Next.
func stream[T any](p partition, convert func(context.Context, []*kgo.Record) ([]T, error)) Stream[T] {
	return &readAhead[T]{part: p, convert: convert}
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
	go func() {
		defer close(r.done)
		defer close(r.chunks)
		r.err = r.part.each(ctx, func(records []*kgo.Record) error {
			chunk, err := r.convert(ctx, records)
			if err != nil || len(chunk) == 0 {
				return err
			}
			select {
			case r.chunks <- chunk:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
}

// Close ends reading.
func (r *readAhead[T]) Close() {
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
}
