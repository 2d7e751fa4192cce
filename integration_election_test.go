package kafkafailover_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// An unclean election truncates the active source's log below what was relayed,
// and other records take the lost ones' places. The relay never goes on there as
// if nothing had happened: it reads the other source, which agrees.
func TestUncleanElection(t *testing.T) {
	t.Parallel() // clusters or topics of its own, and it waits a lot
	p := newPool(t, 2)
	three := kafkatest.Start(t, "unclean", kafkatest.Options{Nodes: 3})
	p.sources[0], p.brokers[0] = three, strings.Join(three.Brokers(), ",")
	topic := p.topic("unclean")
	p.create(p.target, topic, 1)
	p.create(p.sources[1], topic, 1)
	createOnTwo(t, three, topic)
	p.fillAll(topic, 0, 1000, 1, 100)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 1000, time.Minute)
	relay.awaitState(1, "healthy", 1, time.Minute)

	three.Kill(1) // the follower misses what comes now
	p.fillAll(topic, 1000, 500, 1, 100)
	p.awaitTarget(topic, 1500, time.Minute)
	relay.awaitMark(p.world, topic, 0, 1500)
	if got := relay.switches(); got != 0 {
		t.Errorf("%d switches, want none: the broker that is down leads no partition", got)
	}
	electUncleanly(t, three, topic)
	writeOthers(t, three, topic)
	p.on(1).fillFrom(topic, 1500, 200, 1, 100)
	p.awaitTarget(topic, 1700, time.Minute)
	relay.mustLog(30*time.Second, "Switched from source dc1 to dc2")
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(1, topic)

	// Without the other source it stops.
	p.sources, p.brokers = p.sources[:1], p.brokers[:1]
	relay = p.start(pipeline{topics: topic, input: "on_fatal: exit"})
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustNameDifference(topic, 0, 1499)
	if got := ends(t, p.target, topic); got != 1700 {
		t.Fatalf("the target holds %d records, want 1700", got)
	}
}

// createOnTwo makes a topic of one partition with replicas on nodes 1 and 2.
func createOnTwo(t *testing.T, c *kafkatest.Cluster, topic string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	ct := kmsg.NewCreateTopicsRequestTopic()
	ct.Topic, ct.NumPartitions, ct.ReplicationFactor = topic, -1, -1
	ct.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: []int32{1, 2}}}
	req.Topics, req.TimeoutMillis = append(req.Topics, ct), 10_000
	if resp, err := req.RequestWith(testContext(t), c.Client(t)); err != nil || resp.Topics[0].ErrorCode != 0 {
		t.Fatal(err, resp)
	}
	c.AwaitTopic(t, topic)
}

// electUncleanly makes node 2 the leader, which lacks what only node 1 had.
func electUncleanly(t *testing.T, c *kafkatest.Cluster, topic string) {
	t.Helper()
	c.Kill(0)
	if err := c.Restart(1); err != nil {
		t.Fatal(err)
	}
	cl := c.Client(t)
	adm := kadm.NewClient(cl)
	eventually(t, time.Minute, "node 2 is elected uncleanly", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_, err := adm.ElectLeaders(ctx, kadm.ElectLiveReplica, kadm.TopicsSet{topic: {0: {}}})
		return err == nil && ends(t, c, topic) == 1000
	})
}

// writeOthers takes the places of the lost records, and more.
func writeOthers(t *testing.T, c *kafkatest.Cluster, topic string) {
	t.Helper()
	var rs []*kgo.Record
	for i := range 1000 {
		r := plainRecord(topic, 1000+i, 1, 100)
		r.Value = append([]byte("other "), r.Value...)
		rs = append(rs, r)
	}
	if err := c.Client(t).ProduceSync(testContext(t), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// The same election while the source is read alone and is not left for another:
// the truncation is met live, by the client or by the leader's epoch. The relay
// does not go on behind records that differ.
func TestUncleanElectionLive(t *testing.T) {
	t.Parallel() // clusters or topics of its own, and it waits a lot
	p := newPool(t, 1)
	three := kafkatest.Start(t, "unclean1", kafkatest.Options{Nodes: 3})
	p.sources[0], p.brokers[0] = three, strings.Join(three.Brokers(), ",")
	topic := p.topic("uncleanLive")
	p.create(p.target, topic, 1)
	createOnTwo(t, three, topic)
	p.fillAll(topic, 0, 1000, 1, 100)
	// Patient enough to keep its client across the election.
	p.health = "health: { unhealthy_after: 1000 }"
	relay := p.start(pipeline{topics: topic, input: "on_fatal: exit"})
	p.awaitTarget(topic, 1000, time.Minute)
	three.Kill(1)
	p.fillAll(topic, 1000, 500, 1, 100)
	p.awaitTarget(topic, 1500, time.Minute)
	electUncleanly(t, three, topic)
	writeOthers(t, three, topic)
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustNameDifference(topic, 0, 1499)
	if got := ends(t, p.target, topic); got != 1500 {
		t.Fatalf("the target holds %d records, want 1500: records of another history were spliced on", got)
	}
}

// A source of three nodes loses the one that leads: it is down only until
// another one leads, and the relay, which has no other source, waits and goes on
// by itself.
func TestSourceLeaderKilled(t *testing.T) {
	t.Parallel() // clusters or topics of its own, and it waits a lot
	p := newPool(t, 1)
	three := kafkatest.Start(t, "leads", kafkatest.Options{Nodes: 3})
	p.sources[0], p.brokers[0] = three, strings.Join(three.Brokers(), ",")
	topic := p.all("leads", 3)
	load := p.loadAll(topic, 3, 200, 2_000)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 2_000, time.Minute)
	three.Kill(0)
	before := ends(t, p.target, topic)
	p.awaitTarget(topic, before+5_000, time.Minute) // with a third of the leaders dead it would stand still
	relay.awaitState(0, "healthy", 2, time.Minute)
	load.stop()
	p.awaitTarget(topic, int64(load.count()), time.Minute)
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	p.mustBeExactFrom(0, topic)
}
