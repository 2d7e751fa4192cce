package kafka

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Of a source topic's settings a copy takes what decides which records it holds,
// even where the source's brokers default to it; the rest only where the topic
// has it set; and nothing that belongs to the cluster.
func TestSettingsOf(t *testing.T) {
	conf := func(key, value string, source kmsg.ConfigSource) kadm.Config {
		return kadm.Config{Key: key, Value: &value, Source: source}
	}
	got := settingsOf([]kadm.Config{
		conf("cleanup.policy", "compact,delete", kmsg.ConfigSourceDefaultConfig),
		conf("retention.ms", "1", kmsg.ConfigSourceStaticBrokerConfig),
		conf("segment.ms", "2", kmsg.ConfigSourceDynamicTopicConfig),
		conf("segment.bytes", "3", kmsg.ConfigSourceStaticBrokerConfig),
		conf("message.timestamp.type", "LogAppendTime", kmsg.ConfigSourceDynamicTopicConfig),
		conf("message.timestamp.before.max.ms", "4", kmsg.ConfigSourceDynamicTopicConfig),
		conf("min.insync.replicas", "2", kmsg.ConfigSourceDynamicTopicConfig),
		conf("compression.type", "zstd", kmsg.ConfigSourceDynamicTopicConfig),
		conf("unclean.leader.election.enable", "true", kmsg.ConfigSourceDynamicTopicConfig),
		conf("leader.replication.throttled.replicas", "*", kmsg.ConfigSourceDynamicTopicConfig),
		{Key: "max.message.bytes"},
	})
	want := Settings{"cleanup.policy": "compact,delete", "retention.ms": "1", "segment.ms": "2", "message.timestamp.type": "CreateTime"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	command := NewTopic{Name: "t", Partitions: 3, Replication: -1, Settings: got}.Command("b:1")
	if command != "kafka-topics.sh --bootstrap-server b:1 --create --topic t --partitions 3 --config cleanup.policy=compact,delete --config message.timestamp.type=CreateTime --config retention.ms=1 --config segment.ms=2" {
		t.Fatal(command)
	}
}
