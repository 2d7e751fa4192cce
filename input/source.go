package input

import (
	"context"
	"fmt"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// source is the cluster that is read, as it was when reading began.
type source struct {
	name    string
	cluster *kafka.Cluster
	desc    *kafka.Description
	topics  []relay.SourceTopic
	// end is the bound up to which records can be read.
	end kafka.Bound
}

// openSource connects to the first source and describes the topics.
func openSource(ctx context.Context, conf config) (*source, error) {
	conn := conf.sources[0]
	c, err := conn.Admin()
	if err != nil {
		return nil, err
	}
	s := &source{name: conn.Name, cluster: c, end: kafka.HighWatermark}
	if conf.committed {
		s.end = kafka.LastStable
	}
	if err := s.describe(ctx, conf.routes); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

func (s *source) describe(ctx context.Context, routes []relay.Route) error {
	names := make([]string, len(routes))
	for i, r := range routes {
		names[i] = r.Source
	}
	d, err := s.cluster.Describe(ctx, names...)
	if err != nil {
		return fmt.Errorf("source %w", err)
	}
	s.desc = d
	for _, r := range routes {
		t := d.Topics[r.Source]
		switch {
		case t.Missing():
			return &missingTopicError{s.name, r.Source}
		case t.Err != nil:
			return fmt.Errorf("source %s, topic %q: %w", s.name, r.Source, t.Err)
		case len(t.Leaderless) > 0:
			return fmt.Errorf("source %s: partition %s/%d has no leader", s.name, r.Source, t.Leaderless[0])
		}
		s.topics = append(s.topics, relay.SourceTopic{Route: r, TopicID: t.ID, Partitions: t.Partitions})
	}
	return nil
}

// missingTopicError is a source topic that the cluster does not know. A broker
// just started may not know it yet, so it is fatal only when it stays.
type missingTopicError struct{ source, topic string }

func (e *missingTopicError) Error() string {
	return fmt.Sprintf("source %s has no topic %q: create it, or correct topics", e.source, e.topic)
}

func (s *source) names() []string {
	names := make([]string, len(s.topics))
	for i, t := range s.topics {
		names[i] = t.Route.Source
	}
	return names
}

func (s *source) bounds(ctx context.Context) (starts, ends map[position.TP]int64, err error) {
	if starts, err = s.cluster.Offsets(ctx, kafka.LogStart, s.names()...); err != nil {
		return nil, nil, err
	}
	ends, err = s.cluster.Offsets(ctx, s.end, s.names()...)
	return starts, ends, err
}

func (s *source) reader(committed bool) *kafka.Reader { return s.cluster.Reader(s.desc, committed) }

func (s *source) close() { s.cluster.Close() }
