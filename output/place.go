package output

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// elsewhere is the slot of partitions that no route leads to.
const elsewhere = -1

// place decides the partition of a relayed record: where its route leads, or,
// with exactly_once, where the fields topic, key and partition say. It returns
// the partition's slot.
func (s *session) place(r *kgo.Record, m *service.Message, part *relay.Part, src *record.Source) (int, error) {
	if s.out.hasTarget() {
		return s.byContent(r, m, part, src)
	}
	slot := part.FirstSlot
	if part.Route.Mode == relay.ByKey {
		slot += relay.PartitionByKey(r, src.Record.Partition, part.Slots)
	}
	r.Topic, r.Partition = s.gen.Slots[slot].Topic, s.gen.Slots[slot].Partition
	return slot, nil
}

func (s *session) byContent(r *kgo.Record, m *service.Message, part *relay.Part, src *record.Source) (int, error) {
	conf := &s.out.conf
	if conf.hasKey {
		key, err := conf.key.TryBytes(m)
		if err != nil {
			return 0, fmt.Errorf("key: %w", err)
		}
		r.Key = key
	}
	r.Topic = part.Route.Target
	if conf.hasTopic {
		topic, err := conf.topic.TryString(m)
		if err != nil {
			return 0, fmt.Errorf("topic: %w", err)
		}
		r.Topic = topic
	}
	n, err := s.partitionsOf(r.Topic)
	if err != nil {
		return 0, err
	}
	switch {
	case conf.hasPartition:
		text, err := conf.partition.TryString(m)
		if err != nil {
			return 0, fmt.Errorf("partition: %w", err)
		}
		p, err := strconv.ParseInt(text, 10, 32)
		if err != nil || p < 0 || int(p) >= n {
			return 0, fmt.Errorf("partition is %q and must be a number from 0 to %d, of topic %q", text, n-1, r.Topic)
		}
		r.Partition = int32(p)
	case r.Topic == part.Route.Target && part.Route.Mode != relay.ByKey:
		r.Partition = s.gen.Slots[part.FirstSlot].Partition
	default:
		r.Partition = int32(relay.PartitionByKey(r, src.Record.Partition, n))
	}
	for slot := range s.gen.Slots {
		if s.gen.Slots[slot] == (position.TP{Topic: r.Topic, Partition: r.Partition}) {
			return s.slotOf(part, slot), nil
		}
	}
	return elsewhere, nil
}

// slotOf is a slot if the part may feed it by its route: only of those its mark
// tells how far they are covered.
func (s *session) slotOf(part *relay.Part, slot int) int {
	if slot >= part.FirstSlot && slot < part.FirstSlot+part.Slots {
		return slot
	}
	return elsewhere
}

// partitionsOf is how many partitions a topic of the target has.
func (s *session) partitionsOf(topic string) (int, error) {
	if n, ok := s.counts.Load(topic); ok {
		return n.(int), nil
	}
	c, err := s.out.admin()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchTimeout)
	defer cancel()
	d, err := c.Describe(ctx, topic)
	if err != nil {
		return 0, err
	}
	t := d.Topics[topic]
	if err := t.Usable(c.Conn.Name, topic); err != nil {
		return 0, err
	}
	s.counts.Store(topic, int(t.Partitions))
	return int(t.Partitions), nil
}
