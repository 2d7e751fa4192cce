package kafka

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// askTimeout bounds one question. A broker that hangs gives no error by itself.
const askTimeout = 10 * time.Second

// Cluster asks one cluster questions. Each has a deadline of its own.
type Cluster struct {
	Conn   Conn
	Client *kgo.Client
	Admin  *kadm.Client
}

// Close ends the client.
func (c *Cluster) Close() { c.Client.Close() }

// Description is a cluster and the topics asked for.
type Description struct {
	ClusterID string
	Topics    map[string]Topic
}

// Topic of a Description.
type Topic struct {
	// ID is the topic ID (KIP-516), empty where the broker gives none.
	ID         string
	Partitions int32
	// Err is set for a topic that does not exist, or may not be described.
	Err error
	// Leaderless are partitions that have no leader now.
	Leaderless []int32
	leaders    map[int32]int32
	epochs     map[int32]int32
	rawID      [16]byte
}

// Describe asks for the cluster's ID and topics. A missing topic is no error
// of the call. It asks a broker each time: kadm answers from a cache, in which
// a topic just recreated keeps its old ID for a while.
func (c *Cluster) Describe(ctx context.Context, topics ...string) (*Description, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.describe(ctx, topics)
}

func (c *Cluster) describe(ctx context.Context, topics []string) (*Description, error) {
	resp, err := c.askAny(ctx, func() *kmsg.MetadataRequest { return metadataRequest(topics) })
	if err != nil {
		return nil, c.unreachable(err)
	}
	d := &Description{Topics: make(map[string]Topic, len(topics))}
	if resp.ClusterID != nil {
		d.ClusterID = *resp.ClusterID
	}
	for i := range resp.Topics {
		if t := &resp.Topics[i]; t.Topic != nil {
			d.Topics[*t.Topic] = topicOf(t)
		}
	}
	for _, name := range topics {
		if _, ok := d.Topics[name]; !ok {
			d.Topics[name] = Topic{Err: kerr.UnknownTopicOrPartition}
		}
	}
	return d, nil
}

func topicOf(t *kmsg.MetadataResponseTopic) Topic {
	out := Topic{Err: kerr.ErrorForCode(t.ErrorCode), Partitions: int32(len(t.Partitions)), rawID: t.TopicID, leaders: make(map[int32]int32, len(t.Partitions)), epochs: make(map[int32]int32, len(t.Partitions))}
	if t.TopicID != [16]byte{} {
		out.ID = base64.RawURLEncoding.EncodeToString(t.TopicID[:]) // as Kafka's tools print it
	}
	for _, p := range t.Partitions {
		out.leaders[p.Partition], out.epochs[p.Partition] = p.Leader, p.LeaderEpoch
		if p.Leader < 0 {
			out.Leaderless = append(out.Leaderless, p.Partition)
		}
	}
	slices.Sort(out.Leaderless)
	return out
}

// LeaderEpoch is the epoch of a partition's leader (KIP-320); -1 where the
// broker gives none.
func (t Topic) LeaderEpoch(partition int32) int32 {
	if e, ok := t.epochs[partition]; ok {
		return e
	}
	return -1
}

// Missing tells whether the topic does not exist.
func (t Topic) Missing() bool {
	return errors.Is(t.Err, kerr.UnknownTopicOrPartition) || errors.Is(t.Err, kerr.UnknownTopicID)
}

func (c *Cluster) unreachable(err error) error {
	return fmt.Errorf("%s (%s) cannot be reached: %w", c.Conn.Name, strings.Join(c.Conn.SeedBrokers, ","), c.Conn.explain(err, c.Conn.offered))
}

// Bound is one end of a log.
type Bound int

// The bounds that Offsets lists.
const (
	LogStart Bound = iota
	// HighWatermark is the end for a reader of everything.
	HighWatermark
	// LastStable is the end for a reader of committed records.
	LastStable
)

// End is the end for a reader of committed records, or of everything.
func End(committed bool) Bound {
	if committed {
		return LastStable
	}
	return HighWatermark
}

// Offsets lists a bound of every partition of the topics.
func (c *Cluster) Offsets(ctx context.Context, b Bound, topics ...string) (map[position.TP]int64, error) {
	if len(topics) == 0 { // which kadm takes for all
		return map[position.TP]int64{}, nil
	}
	list := map[Bound]func(context.Context, ...string) (kadm.ListedOffsets, error){
		LogStart: c.Admin.ListStartOffsets, HighWatermark: c.Admin.ListEndOffsets, LastStable: c.Admin.ListCommittedOffsets,
	}[b]
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	l, err := list(ctx, topics...)
	return c.listed(l, err)
}

// OffsetsAt lists the first offset at or after a time in every partition, the
// log's end where there is none.
func (c *Cluster) OffsetsAt(ctx context.Context, t time.Time, topics ...string) (map[position.TP]int64, error) {
	if len(topics) == 0 {
		return map[position.TP]int64{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	l, err := c.Admin.ListOffsetsAfterMilli(ctx, t.UnixMilli(), topics...)
	return c.listed(l, err)
}

func (c *Cluster) listed(l kadm.ListedOffsets, err error) (map[position.TP]int64, error) {
	if err == nil {
		err = l.Error()
	}
	if err != nil {
		return nil, c.unreachable(fmt.Errorf("listing offsets: %w", err))
	}
	out := map[position.TP]int64{}
	l.Each(func(o kadm.ListedOffset) { out[position.TP{Topic: o.Topic, Partition: o.Partition}] = o.Offset })
	return out, nil
}
