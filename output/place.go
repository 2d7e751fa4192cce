package output

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// elsewhere is the slot of partitions that no route leads to.
const elsewhere = -1

// place is where a record goes that is routed by its content.
type place struct {
	topic     string
	partition int32
	key       []byte
	slot      int
}

// byRoute sends a record where its route leads.
func (s *session) byRoute(r *kgo.Record, part *relay.Part, src *record.Source) int {
	slot := part.FirstSlot
	if part.Route.Mode == relay.ByKey {
		slot += relay.PartitionByKey(r, src.Record.Partition, part.Slots)
	}
	r.Topic, r.Partition = s.gen.Slots[slot].Topic, s.gen.Slots[slot].Partition
	return slot
}

// to sends a record to a place.
func (at place) to(r *kgo.Record) int {
	r.Topic, r.Partition, r.Key = at.topic, at.partition, at.key
	return at.slot
}

// askError is a question to the target that was not answered: nothing is wrong
// with the record that raised it.
type askError struct{ error }

func (e askError) Unwrap() error { return e.error }

// byContent evaluates the fields topic, key and partition for a relayed message.
// An error lies in the message, unless it is an askError.
func (s *session) byContent(m *service.Message, part *relay.Part, src *record.Source) (place, error) {
	conf := &s.out.conf
	at := place{topic: part.Route.Target, slot: elsewhere}
	var err error
	if at.key, err = s.contentKey(m, src); err != nil {
		return at, err
	}
	if conf.hasTopic {
		if at.topic, err = conf.topic.TryString(m); err != nil {
			return at, fmt.Errorf("topic: %w", err)
		}
	}
	switch at.topic {
	case "":
		return at, errors.New("topic is empty for a message: set topic to a name or an interpolation that gives one")
	case conf.progressTopic:
		return at, fmt.Errorf("topic is %q, which is the progress_topic: records there would be taken for marks", at.topic)
	}
	n, err := s.partitionsOf(at.topic)
	if err != nil {
		return at, err
	}
	switch {
	case conf.hasPartition:
		text, err := conf.partition.TryString(m)
		if err != nil {
			return at, fmt.Errorf("partition: %w", err)
		}
		p, err := strconv.ParseInt(text, 10, 32)
		if err != nil || p < 0 || int(p) >= n {
			return at, fmt.Errorf("partition is %q and must be a number from 0 to %d, of topic %q", text, n-1, at.topic)
		}
		at.partition = int32(p)
	case at.topic == part.Route.Target && part.Route.Mode != relay.ByKey:
		at.partition = s.gen.Slots[part.FirstSlot].Partition
	default:
		at.partition = int32(relay.PartitionByKey(&kgo.Record{Key: at.key}, src.Record.Partition, n))
	}
	// Only of its route's partitions a mark tells how far they are covered.
	if at.topic == part.Route.Target {
		slot := part.FirstSlot
		if part.Slots > 1 {
			slot += int(at.partition)
		}
		if s.gen.Slots[slot].Partition == at.partition {
			at.slot = slot
		}
	}
	return at, nil
}

func (s *session) contentKey(m *service.Message, src *record.Source) ([]byte, error) {
	if !s.out.conf.hasKey {
		return s.rules.Key(m, src.Record.Key), nil
	}
	key, err := s.out.conf.key.TryBytes(m)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if len(key) == 0 {
		return nil, nil // no key
	}
	return key, nil
}

// contentTopics are the topics that records were sent to by content, as they
// were found first.
func (s *session) contentTopics() map[string]kafka.Topic {
	out := map[string]kafka.Topic{}
	s.content.Range(func(name, t any) bool {
		out[name.(string)] = t.(kafka.Topic)
		return true
	})
	return out
}

// lacking is a topic that the target does not have, when that was found out, and
// the error that says so: the next records for it are not to wait for it too.
type lacking struct {
	at  time.Time
	err error
}

const lackingFor = 10 * time.Second

// partitionsOf is how many partitions a topic of the target has.
func (s *session) partitionsOf(topic string) (int, error) {
	if t, ok := s.content.Load(topic); ok {
		return int(t.(kafka.Topic).Partitions), nil
	}
	if m, ok := s.lacking.Load(topic); ok && time.Since(m.(lacking).at) < lackingFor {
		return 0, m.(lacking).err
	}
	c, err := s.out.admin()
	if err != nil {
		return 0, askError{err}
	}
	ctx, cancel := context.WithTimeout(context.Background(), fenceTimeout)
	defer cancel()
	for try := 1; ; try++ {
		d, err := c.Describe(ctx, topic)
		if err != nil {
			return 0, askError{err}
		}
		t := d.Topics[topic]
		switch {
		case t.Missing() && try == missingAfter: // a broker just started may not know it yet
			err := fmt.Errorf("target topic %q, which topic gives for it, does not exist; create it: kafka-topics.sh --bootstrap-server %s --create --topic %s", topic, s.out.conf.conn.SeedBrokers[0], topic)
			s.lacking.Store(topic, lacking{time.Now(), err})
			return 0, err
		case t.Missing():
			time.Sleep(watchInterval)
			continue
		}
		if err := t.Usable(c.Conn.Name, topic); err != nil {
			return 0, askError{err}
		}
		if was, known := s.out.content.LoadOrStore(topic, t.ID); known && was != t.ID {
			return 0, s.gone(topic, "deleted and recreated")
		}
		s.content.Store(topic, t)
		return int(t.Partitions), nil
	}
}
