package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// interval is the relay's default commit_interval.
const interval = 200 * time.Millisecond

// bareLoop is the yardstick: consume, produce, no processors; with transactions,
// one per interval. It runs as a process of its own, as all contenders do.
func bareLoop(source, target, from, into, records string, transactions bool) error {
	n, err := strconv.Atoi(records)
	if err != nil {
		return err
	}
	in, err := kgo.NewClient(kgo.SeedBrokers(source), kgo.ConsumeTopics(from), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(1<<20))
	if err != nil {
		return err
	}
	defer in.Close()
	opts := []kgo.Opt{kgo.SeedBrokers(target), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000), kgo.ProducerLinger(0)}
	if transactions {
		opts = append(opts, kgo.TransactionalID(into))
	}
	out, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer out.Close()
	l := &loop{in: in, out: out, into: into, transactions: transactions}
	return l.run(context.Background(), n)
}

type loop struct {
	in, out      *kgo.Client
	into         string
	transactions bool
	failed       error
}

func (l *loop) run(ctx context.Context, n int) error {
	if l.transactions {
		if err := l.out.BeginTransaction(); err != nil {
			return err
		}
	}
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			l.failed = err
		}
	}
	began := time.Now()
	for done := 0; done < n; {
		f := l.in.PollRecords(ctx, 8192)
		if err := f.Err(); err != nil {
			return err
		}
		f.EachRecord(func(r *kgo.Record) {
			done++
			l.out.Produce(ctx, &kgo.Record{Topic: l.into, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}, promise)
		})
		if l.transactions && time.Since(began) >= interval {
			if err := l.commit(ctx, true); err != nil {
				return err
			}
			began = time.Now()
		}
	}
	return errors.Join(l.commit(ctx, false), l.failed)
}

func (l *loop) commit(ctx context.Context, more bool) error {
	if err := l.out.Flush(ctx); err != nil || !l.transactions {
		return err
	}
	if err := l.out.EndTransaction(ctx, kgo.TryCommit); err != nil || !more {
		return err
	}
	return l.out.BeginTransaction()
}
