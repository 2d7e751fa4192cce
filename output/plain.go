package output

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
)

// plain writes messages that no kafka_failover input made: an ordinary Kafka
// output, with Benthos' own retries around it.
type plain struct {
	mu     sync.Mutex
	client *kgo.Client
}

func (p *plain) open(o *Output) (*kgo.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		return p.client, nil
	}
	producer := o.conf.producer
	producer.Plain = true
	opts := append(producer.Opts(o.conf.conn), kgo.MaxBufferedRecords(o.conf.maxBuffered))
	if !o.conf.hasPartition {
		opts = append(opts, kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	}
	c, err := o.dial(opts)
	p.client = c
	return c, err
}

func (p *plain) connect(ctx context.Context, o *Output) error {
	if o.conf.exactly {
		return fmt.Errorf("%s has delivery: exactly_once, which is for what a kafka_failover input reads: leave delivery out here", o.name)
	}
	if !o.conf.hasTopic {
		return fmt.Errorf("%s has no topic to write to: set topic, or read with a kafka_failover input whose topics say where records go", o.name)
	}
	c, err := p.open(o)
	if err != nil {
		return err
	}
	o.pulse.start(o.metrics)
	if err := c.Ping(ctx); err != nil {
		return fmt.Errorf("target (%v) cannot be reached: %w", o.conf.conn.SeedBrokers, o.conf.conn.Explain(err))
	}
	return nil
}

func (p *plain) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		p.client.Close()
		p.client = nil
	}
}

func (o *Output) writePlain(ctx context.Context, batch service.MessageBatch) error {
	if seat := o.paired(); seat != nil {
		err := fmt.Errorf("a message without a ticket reached %s: something between it and the kafka_failover input makes new messages or loses their context (a buffer, a second input beside it); remove it", o.name)
		seat.Fail(err)
		if s := o.current(); s != nil {
			s.gen.Break(err)
		}
		return err
	}
	c, err := o.plain.open(o)
	if err != nil {
		return err
	}
	records := make([]*kgo.Record, len(batch))
	for i, m := range batch {
		if records[i], err = o.plainRecord(m); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := c.ProduceSync(ctx, records...).FirstErr(); err != nil {
		o.countRefused(err)
		return fmt.Errorf("writing to %s: %w", records[0].Topic, o.conf.conn.Explain(err))
	}
	o.metrics.Flushed(len(records), time.Since(began))
	return nil
}

func (o *Output) plainRecord(m *service.Message) (*kgo.Record, error) {
	topic, err := o.conf.topic.TryString(m)
	if err != nil {
		return nil, fmt.Errorf("topic: %w", err)
	}
	if topic == "" {
		return nil, errors.New("topic is empty for a message: set topic to a name or an interpolation that gives one")
	}
	r := &kgo.Record{Topic: topic}
	if r.Value, err = m.AsBytes(); err != nil {
		return nil, err
	}
	if o.conf.hasKey {
		if r.Key, err = o.conf.key.TryBytes(m); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		if len(r.Key) == 0 {
			r.Key = nil
		}
	}
	if o.conf.hasPartition {
		text, err := o.conf.partition.TryString(m)
		if err != nil {
			return nil, fmt.Errorf("partition: %w", err)
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("partition is %q for a message and must be a number from 0", text)
		}
		r.Partition = int32(n)
	}
	r.Headers = o.conf.rules.ExtraHeaders(m)
	return r, nil
}
