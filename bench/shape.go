package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// shape is what a source topic holds.
type shape struct {
	name       string // of the topic
	says       string // in the results
	records    int
	size       int // bytes of a value
	partitions int
	json       bool // values are JSON objects
	repetitive bool // they compress to a fraction, as business data do
	codec      kgo.CompressionCodec
}

func (s shape) of(records int) shape {
	s.name, s.records = fmt.Sprintf("%s-%d", s.name, records), records
	return s
}

var (
	// plain is the yardstick's: text as it compresses, hardly within a batch.
	plain = shape{name: "plain", says: "200 B, 4 partitions", records: 3_000_000, size: 200, partitions: 4, codec: kgo.SnappyCompression()}
	// documents are for the filters that read a field.
	documents = shape{name: "documents", says: "200 B JSON, 4 partitions", records: 3_000_000, size: 200, partitions: 4, json: true, codec: kgo.SnappyCompression()}

	otherShapes = []shape{
		{name: "zstd-json", says: "1 KB JSON, zstd, 4 partitions", records: 1_000_000, size: 1000, partitions: 4, json: true, repetitive: true, codec: kgo.ZstdCompression()},
		{name: "tiny", says: "20 B, 4 partitions", records: 5_000_000, size: 20, partitions: 4, codec: kgo.SnappyCompression()},
		{name: "large", says: "100 KB, 4 partitions", records: 15_000, size: 100_000, partitions: 4, codec: kgo.SnappyCompression()},
		{name: "one", says: "200 B, 1 partition", records: 3_000_000, size: 200, partitions: 1, codec: kgo.SnappyCompression()},
		{name: "many", says: "200 B, 200 partitions", records: 3_000_000, size: 200, partitions: 200, codec: kgo.SnappyCompression()},
	}
)

// load makes the topic and fills it.
func (s shape) load(src *kafkatest.Cluster, seed uint64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(src.Brokers()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := create(cl, s.name, s.partitions); err != nil {
		return err
	}
	return s.fill(src, seed)
}

// fill writes the records, each with its number as its key.
func (s shape) fill(src *kafkatest.Cluster, seed uint64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(src.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000),
		kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchCompression(s.codec))
	if err != nil {
		return err
	}
	defer cl.Close()
	r := rand.New(rand.NewPCG(seed, 2))
	letters := text(r)
	var failed error
	promise := func(_ *kgo.Record, err error) {
		if err != nil && failed == nil {
			failed = err
		}
	}
	for i := range s.records {
		cl.Produce(context.Background(), &kgo.Record{Topic: s.name, Partition: int32(i % s.partitions), Key: strconv.AppendInt(nil, int64(i), 10), Value: s.value(r, letters, i)}, promise)
	}
	return errors.Join(cl.Flush(context.Background()), failed)
}

// text is a megabyte of letters and digits without pattern.
func text(r *rand.Rand) []byte {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	out := make([]byte, 1<<20)
	for i := range out {
		out[i] = alphabet[r.IntN(len(alphabet))]
	}
	return out
}

func (s shape) value(r *rand.Rand, letters []byte, i int) []byte {
	from := r.IntN(len(letters) - s.size)
	if s.repetitive {
		from = r.IntN(16) * 64
	}
	if !s.json {
		return letters[from : from+s.size]
	}
	v := fmt.Appendf(make([]byte, 0, s.size), `{"id":%d,"currency":"INR","amount":%d.5,"account":{"name":"%s"},"note":"`, i, r.IntN(1000), letters[from:from+12])
	v = append(v, letters[from:from+s.size-len(v)-2]...)
	return append(v, `"}`...)
}

func create(cl *kgo.Client, topic string, partitions int) error {
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(context.Background(), int32(partitions), 1, nil, topic); err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(lookEvery) { // until each of its leaders answers
		l, err := adm.ListEndOffsets(context.Background(), topic)
		if err == nil && l.Error() == nil && len(l[topic]) == partitions {
			return nil
		}
		if time.Since(began) > patience {
			return fmt.Errorf("topic %s: %w", topic, errors.Join(err, l.Error()))
		}
	}
}
