package input

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// source is one source cluster as it was when it was opened to be read.
type source struct {
	index   int // in the pool
	name    string
	conn    kafka.Conn
	cluster *kafka.Cluster
	desc    *kafka.Description
	topics  []relay.SourceTopic
	// starts and ends bound what can be read of each partition.
	starts, ends map[position.TP]int64
	committed    bool
}

// end is the bound up to which records can be read.
func (c config) end() kafka.Bound { return kafka.End(c.committed) }

// lookTimeout bounds one look from outside at a source.
func (c config) lookTimeout() time.Duration { return max(3*c.timeout, 3*time.Second) }

func (c config) topicNames() []string {
	names := make([]string, len(c.routes))
	for i, r := range c.routes {
		names[i] = r.Source
	}
	return names
}

// openSource connects to a source and looks at its topics.
func openSource(ctx context.Context, conf config, index int, conn kafka.Conn) (*source, error) {
	c, err := conn.Admin()
	if err != nil {
		return nil, err
	}
	s := &source{index: index, name: conn.Name, conn: conn, cluster: c, committed: conf.committed}
	if err := s.look(ctx, conf); err != nil {
		c.Close()
		return nil, fmt.Errorf("source %w", err)
	}
	return s, nil
}

func (s *source) look(ctx context.Context, conf config) (err error) {
	names := conf.topicNames()
	if s.desc, s.ends, err = s.cluster.Look(ctx, conf.end(), names...); err != nil {
		return err
	}
	if s.starts, err = s.cluster.Offsets(ctx, kafka.LogStart, names...); err != nil {
		return err
	}
	s.topics = make([]relay.SourceTopic, 0, len(conf.routes))
	for _, r := range conf.routes {
		t := s.desc.Topics[r.Source]
		s.topics = append(s.topics, relay.SourceTopic{Route: r, TopicID: t.ID, Partitions: t.Partitions})
	}
	return nil
}

// catchUp looks at the ends once more where claims lie beyond them: another
// instance, which this one takes over from, may have relayed what was written
// since the last look.
func (s *source) catchUp(ctx context.Context, conf config, claims []claim) error {
	if !slices.ContainsFunc(claims, func(c claim) bool { return c.next > s.ends[c.tp] }) {
		return nil
	}
	_, ends, err := s.cluster.Look(ctx, conf.end(), s.names()...)
	if err == nil {
		s.ends = ends
	}
	return err
}

func (s *source) names() []string {
	names := make([]string, len(s.topics))
	for i, t := range s.topics {
		names[i] = t.Route.Source
	}
	return names
}

// settings are those of its topics that copies of them are to have.
func (s *source) settings(ctx context.Context) (map[string]kafka.Settings, error) {
	return s.cluster.Settings(ctx, s.names()...)
}

// id names the log of a topic in this source.
func (s *source) id(topic string) position.SourceID {
	return position.SourceID{ClusterID: s.desc.ClusterID, TopicID: s.desc.Topics[topic].ID}
}

func (s *source) reader() *kafka.Reader { return s.cluster.Reader(s.desc, s.committed) }

func (s *source) close() { s.cluster.Close() }
