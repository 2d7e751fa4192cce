package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Settings are topic configurations by their Kafka names.
type Settings map[string]string

// String is the settings as kafka-topics.sh takes them, each behind --config.
func (s Settings) String() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, " --config %s=%s", k, s[k])
	}
	return strings.TrimPrefix(b.String(), " ")
}

// mirrored are the settings of a source topic that decide which records a copy
// takes, and how long it keeps them. The value tells whether what the source's
// brokers default to counts too: the target's own defaults would make a copy
// that keeps less. What is about replicas, throttles, quotas of unclean elections
// or tiers of storage belongs to the cluster and is not mirrored, nor is
// compression.type: the output's `compression` decides.
// message.timestamp.before.max.ms is not either, since a copy is made of records
// that have grown old.
var mirrored = map[string]bool{
	"cleanup.policy":                 true,
	"max.message.bytes":              true,
	"retention.bytes":                true,
	"retention.ms":                   true,
	"delete.retention.ms":            false,
	"max.compaction.lag.ms":          false,
	"message.timestamp.after.max.ms": false,
	"min.cleanable.dirty.ratio":      false,
	"min.compaction.lag.ms":          false,
	"segment.bytes":                  false,
	"segment.ms":                     false,
}

// Mirrored are the names of the settings that a copy of a topic takes over.
func Mirrored() []string { return slices.Sorted(maps.Keys(mirrored)) }

// Settings asks for the settings of topics that a copy is to have, by topic. A
// topic whose settings may not be read is left out.
func (c *Cluster) Settings(ctx context.Context, topics ...string) (map[string]Settings, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	described, err := c.Admin.DescribeTopicConfigs(ctx, topics...)
	if denied := (*kadm.AuthError)(nil); errors.As(err, &denied) {
		return map[string]Settings{}, nil
	}
	if err != nil {
		return nil, c.unreachable(fmt.Errorf("reading topic configurations: %w", err))
	}
	out := make(map[string]Settings, len(topics))
	for _, rc := range described {
		if rc.Err == nil {
			out[rc.Name] = settingsOf(rc.Configs)
		}
	}
	return out, nil
}

// settingsOf picks what is mirrored. Timestamps are kept, so the copy never has
// message.timestamp.type=LogAppendTime.
func settingsOf(configs []kadm.Config) Settings {
	s := Settings{"message.timestamp.type": "CreateTime"}
	for _, kv := range configs {
		always, ok := mirrored[kv.Key]
		if ok && kv.Value != nil && (always || kv.Source == kmsg.ConfigSourceDynamicTopicConfig) {
			s[kv.Key] = *kv.Value
		}
	}
	return s
}

// NewTopic is a topic to create.
type NewTopic struct {
	Name       string
	Partitions int32
	// Replication is the replication factor; -1: the brokers' default.
	Replication int16
	Settings    Settings
}

// Command is the shell command that creates it.
func (t NewTopic) Command(broker string) string {
	text := fmt.Sprintf("kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions %d", broker, t.Name, t.Partitions)
	if t.Replication > 0 {
		text += " --replication-factor " + strconv.Itoa(int(t.Replication))
	}
	if s := t.Settings.String(); s != "" {
		text += " " + s
	}
	return text
}

// GrowCommand is the shell command that gives a topic so many partitions.
func GrowCommand(broker, topic string, partitions int32) string {
	return fmt.Sprintf("kafka-topics.sh --bootstrap-server %s --alter --topic %s --partitions %d", broker, topic, partitions)
}

// Create creates a topic and returns it once it can be used. That it exists
// meanwhile is no error.
func (c *Cluster) Create(ctx context.Context, t NewTopic) (Topic, error) {
	configs := make(map[string]*string, len(t.Settings))
	for k, v := range t.Settings {
		configs[k] = kadm.StringPtr(v)
	}
	resp, err := c.Admin.CreateTopic(ctx, t.Partitions, t.Replication, configs, t.Name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return Topic{}, withMessage(err, resp.ErrMessage)
	}
	return c.awaitTopic(ctx, t.Name, 1)
}

// Grow gives a topic so many partitions and returns it once all of them can be
// used. That it has as many meanwhile is no error.
func (c *Cluster) Grow(ctx context.Context, topic string, partitions int32) (Topic, error) {
	responses, err := c.Admin.UpdatePartitions(ctx, int(partitions), topic)
	resp := responses[topic]
	if err == nil {
		err = resp.Err
	}
	if err != nil && !errors.Is(err, kerr.InvalidPartitions) {
		return Topic{}, withMessage(err, resp.ErrMessage)
	}
	return c.awaitTopic(ctx, topic, partitions)
}

func withMessage(err error, text string) error {
	if text == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, text)
}

// Refused tells whether a broker will not create a topic or partitions however
// often it is asked.
func Refused(err error) bool {
	for _, e := range []error{
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.PolicyViolation, kerr.InvalidConfig,
		kerr.InvalidReplicationFactor, kerr.InvalidPartitions, kerr.InvalidTopicException, kerr.InvalidRequest, kerr.UnsupportedVersion,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// awaitPoll is how often a topic that was just made is looked at.
const awaitPoll = 50 * time.Millisecond

// awaitTopic waits until a topic has so many partitions, all with leaders.
func (c *Cluster) awaitTopic(ctx context.Context, name string, partitions int32) (Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for {
		d, err := c.Describe(ctx, name)
		if err != nil {
			return Topic{}, err
		}
		if t := d.Topics[name]; t.Err == nil && t.Partitions >= partitions && len(t.Leaderless) == 0 {
			return t, nil
		}
		select {
		case <-time.After(awaitPoll):
		case <-ctx.Done():
			return Topic{}, fmt.Errorf("topic %q of %s was created, or given partitions, and has not all of their leaders yet", name, c.Conn.Name)
		}
	}
}
