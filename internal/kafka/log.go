package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Reader reads partitions of topics by raw fetches. Unlike a consuming client
// it shows its position across empty batches, control records, aborted
// transactions and compaction gaps.
type Reader struct {
	cluster   *Cluster
	topics    map[string]Topic
	isolation kgo.IsolationLevel
	level     int8
	chunk     int32
}

// Reader returns a reader of the topics as described now; committed hides the
// records of open and aborted transactions.
func (c *Cluster) Reader(d *Description, committed bool) *Reader {
	r := &Reader{cluster: c, topics: d.Topics, isolation: kgo.ReadUncommitted(), chunk: chunkBytes}
	if committed {
		r.isolation, r.level = kgo.ReadCommitted(), 1
	}
	return r
}

// Sized sets how many bytes a fetch asks for; a broker sends one whole batch at
// least.
func (r *Reader) Sized(bytes int32) *Reader {
	r.chunk = bytes
	return r
}

// Chunk is the answer to one fetch.
type Chunk struct {
	Records []*kgo.Record
	// Next is where to read on: past everything in this chunk, also what holds
	// no record to show.
	Next int64
	// Start and End of the log as the fetching isolation level sees it.
	Start, End int64
}

const (
	chunkBytes = 4 << 20
	// glanceBytes suffice to see whether anything lies at an offset.
	glanceBytes = 64 << 10
)

var decompressor = kgo.DefaultDecompressor()

// Fetch reads what lies at offset, without waiting for more.
func (r *Reader) Fetch(ctx context.Context, tp position.TP, offset int64) (Chunk, error) {
	return r.fetch(ctx, tp, offset, r.chunk)
}

// Glance is a Fetch that asks for little.
func (r *Reader) Glance(ctx context.Context, tp position.TP, offset int64) (Chunk, error) {
	return r.fetch(ctx, tp, offset, glanceBytes)
}

func (r *Reader) fetch(ctx context.Context, tp position.TP, offset int64, maxBytes int32) (Chunk, error) {
	t, ok := r.topics[tp.Topic]
	leader := t.leaders[tp.Partition]
	if !ok || t.Err != nil || leader < 0 {
		return Chunk{}, r.cluster.unreachable(fmt.Errorf("partition %s has no leader", tp))
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := r.cluster.Client.Broker(int(leader)).Request(ctx, r.request(tp, t, offset, maxBytes))
	if err != nil {
		return Chunk{}, r.cluster.unreachable(fmt.Errorf("reading %s at offset %d: %w", tp, offset, err))
	}
	f := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(f.ErrorCode); err != nil {
		return Chunk{}, fmt.Errorf("reading %s at offset %d of %s: %w", tp, offset, r.cluster.Conn.Name, err)
	}
	if len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1 {
		return Chunk{}, fmt.Errorf("reading %s at offset %d of %s: the broker's answer lacks the partition", tp, offset, r.cluster.Conn.Name)
	}
	p := &f.Topics[0].Partitions[0]
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: offset, IsolationLevel: r.isolation, Topic: tp.Topic, Partition: tp.Partition,
	}, p, decompressor, nil)
	if fp.Err != nil {
		return Chunk{}, fmt.Errorf("reading %s at offset %d of %s: %w", tp, offset, r.cluster.Conn.Name, fp.Err)
	}
	end := fp.HighWatermark
	if r.level == 1 && fp.LastStableOffset >= 0 {
		end = fp.LastStableOffset
	}
	return Chunk{Records: fp.Records, Next: next, Start: fp.LogStartOffset, End: end}, nil
}

func (r *Reader) request(tp position.TP, t Topic, offset int64, maxBytes int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = 0
	req.MaxBytes = maxBytes
	req.IsolationLevel = r.level
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = tp.Topic, t.rawID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = tp.Partition, offset, maxBytes
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// Each calls fn for every record of [from, to), in order, until fn returns
// false. It begins at the log start where retention has passed from.
func (r *Reader) Each(ctx context.Context, tp position.TP, from, to int64, fn func(*kgo.Record) bool) error {
	for from < to {
		c, err := r.Fetch(ctx, tp, from)
		if errors.Is(err, kerr.OffsetOutOfRange) {
			starts, lerr := r.cluster.Offsets(ctx, LogStart, tp.Topic)
			if lerr == nil && starts[tp] > from {
				from = starts[tp]
				continue
			}
		}
		if err != nil {
			return err
		}
		for _, rec := range c.Records {
			if rec.Offset >= to || !fn(rec) {
				return nil
			}
		}
		if c.Next <= from {
			if c.End <= from {
				return fmt.Errorf("reading %s of %s: the log ends at offset %d before %d", tp, r.cluster.Conn.Name, c.End, to)
			}
			return fmt.Errorf("reading %s of %s: no progress at offset %d though the log ends at %d", tp, r.cluster.Conn.Name, from, c.End)
		}
		from = c.Next
	}
	return nil
}

// At returns the record at exactly this offset, nil if the log holds none
// there (any more).
func (r *Reader) At(ctx context.Context, tp position.TP, offset int64) (*kgo.Record, error) {
	c, err := r.fetch(ctx, tp, offset, 1) // a broker always sends one whole batch
	if errors.Is(err, kerr.OffsetOutOfRange) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(c.Records) > 0 && c.Records[0].Offset == offset {
		return c.Records[0], nil
	}
	return nil, nil
}

// Last returns the last record of [start, end), nil if none is to be seen: the
// offsets at a log's end may hold control records, aborted records or nothing.
func (r *Reader) Last(ctx context.Context, tp position.TP, start, end int64) (*kgo.Record, error) {
	for step, to := int64(1), end; to > start; step *= 4 {
		from := max(start, to-step)
		var last *kgo.Record
		if err := r.Each(ctx, tp, from, to, func(rec *kgo.Record) bool { last = rec; return true }); err != nil {
			return nil, err
		}
		if last != nil {
			return last, nil
		}
		to = from
	}
	return nil, nil
}
