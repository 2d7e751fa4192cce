package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kadm"
)

// TopicConfig is the part of a topic's configuration that matters to a relay. A
// broker may refuse to tell: then Known is false.
type TopicConfig struct {
	Known bool
	// MaxMessageBytes is max.message.bytes: the largest record batch.
	MaxMessageBytes int64
	// LogAppendTime is message.timestamp.type=LogAppendTime: the broker writes
	// its own time over a record's.
	LogAppendTime bool
	// Retention is retention.ms, and RetentionBytes retention.bytes; negative:
	// without limit.
	Retention      time.Duration
	RetentionBytes int64
	// Delete and Compact are the words of cleanup.policy.
	Delete, Compact bool
}

func (t TopicConfig) timestampType() string {
	if t.LogAppendTime {
		return "LogAppendTime"
	}
	return "CreateTime"
}

// Expires tells whether retention deletes records by their age, and at which.
func (t TopicConfig) Expires() (time.Duration, bool) {
	return t.Retention, t.Known && t.Delete && t.Retention >= 0
}

// Configs asks for the configuration of topics.
func (c *Cluster) Configs(ctx context.Context, topics ...string) (map[string]TopicConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	described, err := c.Admin.DescribeTopicConfigs(ctx, topics...)
	if denied := (*kadm.AuthError)(nil); errors.As(err, &denied) { // where reading may be allowed
		return map[string]TopicConfig{}, nil
	}
	if err != nil {
		return nil, c.unreachable(fmt.Errorf("reading topic configurations: %w", err))
	}
	out := make(map[string]TopicConfig, len(topics))
	for _, rc := range described {
		if rc.Err != nil {
			continue
		}
		t := TopicConfig{Retention: -1, RetentionBytes: -1, Delete: true}
		for _, kv := range rc.Configs {
			t.set(kv.Key, kv.MaybeValue())
		}
		t.Known = t.MaxMessageBytes > 0
		out[rc.Name] = t
	}
	return out, nil
}

// BrokerConfig is the value of a setting on a broker, empty where it may not be
// read.
func (c *Cluster) BrokerConfig(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	brokers, err := c.Admin.ListBrokers(ctx)
	if err != nil || len(brokers) == 0 {
		return "", c.unreachable(fmt.Errorf("listing brokers: %w", err))
	}
	described, err := c.Admin.DescribeBrokerConfigs(ctx, brokers[0].NodeID)
	if err != nil {
		return "", nil // reading it may be forbidden
	}
	for _, rc := range described {
		for _, kv := range rc.Configs {
			if kv.Key == name {
				return kv.MaybeValue(), nil
			}
		}
	}
	return "", nil
}

func (t *TopicConfig) set(key, value string) {
	n, _ := strconv.ParseInt(value, 10, 64)
	switch key {
	case "max.message.bytes":
		t.MaxMessageBytes = n
	case "message.timestamp.type":
		t.LogAppendTime = value == "LogAppendTime"
	case "retention.ms":
		if t.Retention = -1; n >= 0 {
			t.Retention = time.Duration(min(n, 1<<43)) * time.Millisecond // some 278 years
		}
	case "retention.bytes":
		t.RetentionBytes = n
	case "cleanup.policy":
		t.Delete, t.Compact = strings.Contains(value, "delete"), strings.Contains(value, "compact")
	}
}

// Describe is the configuration on one line, behind the number of partitions.
func (t TopicConfig) Describe(partitions int32) string {
	text := fmt.Sprintf("%d partitions", partitions)
	if !t.Known {
		return text + ", its configuration may not be read"
	}
	text += fmt.Sprintf(", max.message.bytes %s, %s, ", humanize.IBytes(uint64(t.MaxMessageBytes)), t.timestampType())
	switch {
	case t.Compact && !t.Delete:
		return text + "compacted"
	case t.Compact:
		text += "compacted, "
	}
	switch {
	case t.Retention < 0 && t.RetentionBytes < 0:
		return text + "kept for ever"
	case t.Retention < 0:
		return text + "kept up to " + humanize.IBytes(uint64(t.RetentionBytes))
	case t.RetentionBytes < 0:
		return text + "kept for " + Age(t.Retention)
	}
	return text + "kept for " + Age(t.Retention) + " or up to " + humanize.IBytes(uint64(t.RetentionBytes))
}

// Age is a duration as people say it, in one unit.
func Age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return d.Round(time.Second).String()
}
