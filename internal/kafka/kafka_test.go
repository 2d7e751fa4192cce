package kafka

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

func conn(brokers ...string) Conn {
	return Conn{Name: "test", SeedBrokers: brokers, ClientID: "me", MetadataMaxAge: time.Minute, ConnIdleTimeout: 30 * time.Second}
}

func dial(t *testing.T, opts []kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := Dial(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// The options that exactness rests on.
func TestProducerOptions(t *testing.T) {
	cl := dial(t, Producer{Idempotent: true, Acks: kgo.AllISRAcks(), Compression: kgo.ZstdCompression(), MaxMessageBytes: 1 << 20}.Opts(conn("h:1")))
	if got := cl.OptValue(kgo.UnknownTopicRetries); got != int64(-1) && got != -1 {
		t.Errorf("UnknownTopicRetries = %v", got)
	}
	if got := cl.OptValue(kgo.StopProducerOnDataLossDetected); got != true {
		t.Errorf("StopProducerOnDataLossDetected = %v", got)
	}
	if got := cl.OptValue(kgo.DisableIdempotentWrite); got != false {
		t.Errorf("DisableIdempotentWrite = %v", got)
	}
	if got := cl.OptValue(kgo.RequiredAcks); fmt.Sprint(got) != fmt.Sprint(kgo.AllISRAcks()) {
		t.Errorf("RequiredAcks = %v", got)
	}
	if got := cl.OptValue(kgo.RecordRetries); got != int64(math.MaxInt64) {
		t.Errorf("RecordRetries = %v", got)
	}
	if got := cl.OptValue(kgo.RecordDeliveryTimeout); got != time.Duration(0) {
		t.Errorf("RecordDeliveryTimeout = %v", got)
	}
	if got := cl.OptValue(kgo.MaxBufferedRecords); fmt.Sprint(got) != fmt.Sprint(math.MaxInt32) {
		t.Errorf("MaxBufferedRecords = %v", got)
	}
	cl = dial(t, Producer{Acks: kgo.LeaderAck(), MaxMessageBytes: 1 << 20}.Opts(conn("h:1")))
	if got := cl.OptValue(kgo.DisableIdempotentWrite); got != true {
		t.Errorf("idempotent_write: false gives DisableIdempotentWrite = %v", got)
	}
}

func TestConsumerOptions(t *testing.T) {
	cl := dial(t, Consumer{
		Offsets:   map[string]map[int32]kgo.Offset{"t": {0: kgo.NewOffset().At(7)}},
		Isolation: kgo.ReadCommitted(), FetchMaxBytes: 5 << 20, FetchMaxPartitionBytes: 1 << 20, FetchMaxWait: 70 * time.Millisecond, RackID: "r1",
	}.Opts(conn("h:1")))
	if got := cl.OptValue(kgo.ConsumeResetOffset); fmt.Sprint(got) != fmt.Sprint(kgo.NoResetOffset()) {
		t.Errorf("ConsumeResetOffset = %v: it must never choose by itself", got)
	}
	if got := cl.OptValue(kgo.FetchIsolationLevel); fmt.Sprint(got) != "1" {
		t.Errorf("FetchIsolationLevel = %v", got)
	}
	for _, c := range []struct{ opt, want any }{{kgo.FetchMaxBytes, int32(5 << 20)}, {kgo.FetchMaxPartitionBytes, int32(1 << 20)}, {kgo.FetchMaxWait, 70 * time.Millisecond}, {kgo.Rack, "r1"}, {kgo.ClientID, "me"}} {
		if got := cl.OptValue(c.opt); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("got %v, want %v", got, c.want)
		}
	}
}

func TestParseBrokers(t *testing.T) {
	got, err := ParseBrokers("seed_brokers", []string{"a:1, b:2", "c:3,"})
	if diff := cmp.Diff([]string{"a:1", "b:2", "c:3"}, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	if _, err := ParseBrokers("seed_brokers", []string{" , "}); err == nil || !strings.Contains(err.Error(), "name at least one broker") {
		t.Fatalf("got %v", err)
	}
}

// Reading goes past what holds no record, and finds the last one.
func TestReader(t *testing.T) {
	f := kafkatest.Fake(t, "reader", kfake.SeedTopics(1, "t"))
	c, err := conn(f.ListenAddrs()...).Admin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx := context.Background()
	write := func(n int) {
		for i := range n {
			if err := c.Client.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: fmt.Appendf(nil, "v%d", i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(5)
	txn := dial(t, append(conn(f.ListenAddrs()...).Opts(), kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner())))
	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := txn.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("aborted")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := txn.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	d, err := c.Describe(ctx, "t", "missing")
	if err != nil {
		t.Fatal(err)
	}
	if d.ClusterID != "reader" || !d.Topics["missing"].Missing() || d.Topics["t"].Partitions != 1 {
		t.Fatalf("%+v", d)
	}
	ends, err := c.Offsets(ctx, HighWatermark, "t")
	if err != nil {
		t.Fatal(err)
	}
	tp := position.TP{Topic: "t"}
	end := ends[tp] // 5 records, 3 aborted, a marker
	r := c.Reader(d, true)
	n := 0
	if err := r.Each(ctx, tp, 0, end, func(*kgo.Record) bool { n++; return true }); err != nil || n != 5 {
		t.Fatalf("%d records, %v", n, err)
	}
	last, err := r.Last(ctx, tp, 0, end)
	if err != nil || last == nil || last.Offset != 4 {
		t.Fatalf("last is %v, %v", last, err)
	}
	if got, err := r.At(ctx, tp, 3); err != nil || got == nil || string(got.Value) != "v3" {
		t.Fatalf("at 3: %v, %v", got, err)
	}
	if got, err := r.At(ctx, tp, 1_000); err != nil || got != nil {
		t.Fatalf("beyond the end: %v, %v", got, err)
	}
	ch, err := r.Glance(ctx, tp, 5)
	if err != nil || len(ch.Records) != 0 || ch.Next != end {
		t.Fatalf("glance at the aborted tail: %+v, %v", ch, err)
	}
}
