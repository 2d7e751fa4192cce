package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
)

const (
	topic      = "orders"
	partitions = 4
)

// broker is an in-process stand-in for a Kafka cluster.
type broker struct {
	name    string
	address string
	cluster *kfake.Cluster
	asked   *kafka.Cluster // for questions
	client  *kgo.Client    // for writing
	life    context.Context
	end     context.CancelFunc
}

func startBroker(name string) (*broker, error) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID("demo-"+name), kfake.SeedTopics(partitions, topic))
	if err != nil {
		return nil, fmt.Errorf("starting the demo's broker %s: %w", name, err)
	}
	b := &broker{name: name, cluster: c, address: c.ListenAddrs()[0]} // a dead one does not say
	b.life, b.end = context.WithCancel(context.Background())
	conn := kafka.Conn{Name: name, SeedBrokers: []string{b.address}, ClientID: "demo", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute}
	if b.asked, err = conn.Admin(); err == nil {
		b.client, err = kafka.Dial(kafka.Producer{Idempotent: true, Acks: kgo.AllISRAcks(), MaxMessageBytes: 1 << 20, Compression: kgo.SnappyCompression()}.Opts(conn))
	}
	if err != nil {
		b.stop()
	}
	return b, err
}

// kill closes the listener and all connections at once. Its clients find out by
// themselves.
func (b *broker) kill() {
	b.end()
	b.cluster.Close()
}

func (b *broker) dead() bool { return b.life.Err() != nil }

func (b *broker) stop() {
	if !b.dead() { // the clients of a dead one would wait for it
		if b.client != nil {
			b.client.Close()
		}
		if b.asked != nil {
			b.asked.Close()
		}
	}
	b.kill()
}

// held is how many records the topic holds.
func (b *broker) held(ctx context.Context) int64 {
	ends, err := b.asked.Offsets(ctx, kafka.HighWatermark, topic)
	if err != nil {
		return -1
	}
	var n int64
	for _, end := range ends {
		n += end
	}
	return n
}

// feed writes the same orders in the same order to every source that is alive,
// as a mirror would, until ctx ends. A batch that was begun reaches all.
func feed(ctx context.Context, perSecond int, sources ...*broker) error {
	const tick = 50 * time.Millisecond
	t := time.NewTicker(tick)
	defer t.Stop()
	for n := 0; ; {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		batch := make([]*kgo.Record, perSecond*int(tick)/int(time.Second))
		for i := range batch {
			batch[i] = order(n + i)
		}
		n += len(batch)
		for _, b := range sources {
			if err := b.write(batch); err != nil {
				return fmt.Errorf("writing to %s: %w", b.name, err)
			}
		}
	}
}

// write writes records and waits for them, unless the broker is killed.
func (b *broker) write(records []*kgo.Record) error {
	if b.dead() {
		return nil
	}
	copies := make([]*kgo.Record, len(records)) // a client fills in offsets
	for i, r := range records {
		c := *r
		copies[i] = &c
	}
	// A client that writes idempotently does not give up what it has sent, whatever
	// its context says: what became of it is unknown.
	done := make(chan error, 1)
	go func() { done <- b.client.ProduceSync(b.life, copies...).FirstErr() }()
	select {
	case err := <-done:
		if !b.dead() {
			return err
		}
	case <-b.life.Done():
	}
	return nil
}

var currencies = [...]string{"INR", "EUR", "INR", "USD", "JPY"}

// order is the nth record.
func order(n int) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: int32(n % partitions), Timestamp: time.Now(),
		Key:   fmt.Appendf(nil, "customer-%d", n%97),
		Value: fmt.Appendf(nil, `{"order":%d,"currency":%q,"amount":%d.%02d}`, n, currencies[n%len(currencies)], n%900+1, n%100),
	}
}
