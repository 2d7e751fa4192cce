package output

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// bearingOn is the first look at a target, for a source topic "t" of 3 partitions.
func bearingOn(t *testing.T, c *kfake.Cluster) *bearing {
	t.Helper()
	out := &Output{log: service.MockResources().Logger()}
	out.conf.conn = kafka.Conn{Name: "target", SeedBrokers: c.ListenAddrs(), ClientID: "test", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute}
	out.conf.createTopics, out.conf.createPartitions, out.conf.replication = true, true, -1
	cluster, err := out.conf.conn.Admin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return &bearing{out: out, cluster: cluster, query: relay.Query{
		Topics: []relay.SourceTopic{{Route: relay.Route{Source: "t", Target: "t"}, Partitions: 3}},
		Settings: func(context.Context) (map[string]kafka.Settings, error) {
			return map[string]kafka.Settings{"t": {cleanupPolicy: "delete"}}, nil
		},
	}}
}

// What the target denies stops the relay after some looks, with the reason and
// the command that does it; what may pass does not.
func TestProvideDenied(t *testing.T) {
	for name, c := range map[string]struct {
		partitions int32 // that the target topic has; 0: missing
		code       int16
		stops      bool
		says       string
	}{
		"creating is not allowed": {0, kerr.TopicAuthorizationFailed.Code, true, "or do it by hand: kafka-topics.sh --bootstrap-server"},
		"growing is not allowed":  {2, kerr.TopicAuthorizationFailed.Code, true, "--alter --topic t --partitions 3"},
		"a policy of the broker":  {0, kerr.PolicyViolation.Code, true, "POLICY_VIOLATION"},
		"a broker is slow":        {2, kerr.RequestTimedOut.Code, false, "giving partitions to target topic"},
	} {
		var seeds []kfake.Opt
		if c.partitions > 0 {
			seeds = append(seeds, kfake.SeedTopics(c.partitions, "t"))
		}
		fake := kafkatest.Fake(t, "target", seeds...)
		deny(fake, c.code)
		b := bearingOn(t, fake)
		var err error
		for range missingAfter {
			if err = b.each(t.Context(), b.describe, b.checkTopics); err == nil {
				t.Fatalf("%s: it passes", name)
			}
		}
		if isStop(err) != c.stops || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: stop %v: %v", name, isStop(err), err)
		}
	}
}

// deny has a cluster answer what makes topics and partitions with an error.
func deny(c *kfake.Cluster, code int16) {
	c.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.CreateTopicsRequest)
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewCreateTopicsResponseTopic()
			rt.Topic, rt.ErrorCode = t.Topic, code
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	c.ControlKey(int16(kmsg.CreatePartitions), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.CreatePartitionsRequest)
		resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewCreatePartitionsResponseTopic()
			rt.Topic, rt.ErrorCode = t.Topic, code
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

// What is missing is made, and used at once; a topic that was there before is
// not made again.
func TestProvide(t *testing.T) {
	b := bearingOn(t, kafkatest.Fake(t, "target"))
	b.out.conf.deadLetterTopic = "dead"
	if err := b.each(t.Context(), b.describe, b.checkTopics); err != nil {
		t.Fatal(err)
	}
	if got, dead := b.desc.Topics["t"], b.desc.Topics["dead"]; got.Partitions != 3 || dead.Partitions != 1 {
		t.Fatalf("made with %d and %d partitions", got.Partitions, dead.Partitions)
	}
	if _, err := b.cluster.Admin.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	err := b.each(t.Context(), b.describe, b.checkTopics)
	if err == nil || !strings.Contains(err.Error(), "does not exist on the target; create it: kafka-topics.sh") {
		t.Fatalf("a topic that was deleted while the relay ran: %v", err)
	}
}
