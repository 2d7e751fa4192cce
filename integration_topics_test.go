package kafkafailover_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// topicOn is how many partitions a topic has, 0 without it, and the settings
// that a copy takes over.
func (w *world) topicOn(c *kafkatest.Cluster, topic string) (int32, kafka.Settings) {
	w.t.Helper()
	k := cluster(w.t, c)
	d, err := k.Describe(testContext(w.t), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	settings, err := k.Settings(testContext(w.t), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Topics[topic].Partitions, settings[topic]
}

func (w *world) grow(c *kafkatest.Cluster, topic string, partitions int) {
	w.t.Helper()
	r, err := c.Admin(w.t).UpdatePartitions(testContext(w.t), partitions, topic)
	if err == nil {
		err = r[topic].Err
	}
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, time.Minute, topic+" grows", func() bool { n, _ := w.topicOn(c, topic); return n == int32(partitions) })
}

// printedCommand is the kafka-topics.sh command that a relay printed last, and
// run runs it, with Kafka's own tool in place of the script of that name.
func (p *proc) printedCommand() string {
	p.t.Helper()
	logs := p.logs()
	i := strings.LastIndex(logs, "kafka-topics.sh")
	if i < 0 {
		p.t.Fatal("the stop prints no command")
	}
	command, _, _ := strings.Cut(logs[i:], `"`) // the log line's closing quote
	return strings.TrimSpace(command)
}

func runTopicCommand(t *testing.T, command string) {
	t.Helper()
	libs, err := kafkatest.Libs()
	if err != nil {
		t.Fatal(err)
	}
	command = strings.Replace(command, "kafka-topics.sh", "java -XX:TieredStopAtLevel=1 -cp '"+libs+"/*' org.apache.kafka.tools.TopicCommand", 1)
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// Without create_topics the relay stops and prints the command that creates what
// is missing, and that very command does it, with the settings that matter. With
// it the relay makes the same itself.
func TestCreateTopics(t *testing.T) {
	t.Parallel() // topics of its own, and it waits
	w := newWorld(t)
	topic := w.topic("made")
	w.create(w.source, topic, 3, "retention.ms", "7200000", "max.message.bytes", "2000000", "cleanup.policy", "compact,delete",
		"message.timestamp.type", "LogAppendTime", "min.compaction.lag.ms", "60000", "compression.type", "gzip")
	w.fill(topic, 300, 3, 100)
	want := kafka.Settings{
		"cleanup.policy": "compact,delete", "max.message.bytes": "2000000", "message.timestamp.type": "CreateTime",
		"min.compaction.lag.ms": "60000", "retention.ms": "7200000", "retention.bytes": "-1",
	}
	must := func(topic string) {
		t.Helper()
		if n, got := w.topicOn(w.target, topic); n != 3 || got.String() != want.String() {
			t.Fatalf("%s has %d partitions and %s\nwant %s", topic, n, got, want)
		}
	}
	stopped := w.once(pipeline{topics: `"` + topic + `:` + topic + `.byhand"`}, 1)
	stopped.mustLog(time.Second, "does not exist on the target; create it: kafka-topics.sh --bootstrap-server")
	runTopicCommand(t, stopped.printedCommand())
	must(topic + ".byhand")

	p := pipeline{topics: topic, output: fmt.Sprintf("create_topics: true\nreplication_factor: 1\non_error: dead_letter\ndead_letter_topic: %s.dead", topic)}
	w.check(w.yaml(p)).must(t, "ok", "target", "topic "+topic, "create_topics: the relay creates it at its start with 3 partitions", want.String())
	if n, _ := w.topicOn(w.target, topic); n != 0 {
		t.Fatal("check creates topics")
	}
	w.once(p, 0).mustLog(time.Second, "Created target topic "+topic)
	must(topic)
	w.mustBeExact(topic)
	if n, got := w.topicOn(w.target, topic+".dead"); n != 1 || got["cleanup.policy"] != "delete" || got["max.message.bytes"] != "2000000" {
		t.Fatalf("the dead letter topic has %d partitions and %s", n, got)
	}

	// A target that was deleted is made again, and then the marks speak.
	if _, err := w.target.Admin(t).DeleteTopic(testContext(t), topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the target topic is gone", func() bool { n, _ := w.topicOn(w.target, topic); return n == 0 })
	w.once(p, 1).mustLog(time.Second, "was deleted and recreated since")
}

// What the target's brokers refuse is a stop that says why, and how to do it by
// hand.
func TestCreateTopicsRefused(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.topic("refused")
	w.create(w.source, topic, 1)
	relay := w.once(pipeline{topics: topic, output: "create_topics: true\nreplication_factor: 5"}, 1)
	relay.mustLog(time.Second, "the target refuses creating target topic")
	relay.mustLog(time.Second, "INVALID_REPLICATION_FACTOR")
	relay.mustLog(time.Second, "by hand: kafka-topics.sh --bootstrap-server")
}

// A source topic that grows while it is relayed has its target grow with it, and
// what is in the new partitions arrives, from offset 0.
func TestCreatePartitions(t *testing.T) {
	t.Parallel() // topics of its own, and it waits
	w := newWorld(t)
	topic := w.both("grows", 1)
	w.fill(topic, 100, 1, 100)
	relay := w.run(pipeline{topics: topic, output: "create_partitions: true"})
	w.awaitTarget(topic, 100, time.Minute)
	w.grow(w.source, topic, 3)
	w.fillFrom(topic, 100, 300, 3, 100)
	w.awaitTarget(topic, 400, time.Minute)
	relay.mustLog(time.Second, "Gave target topic "+topic+" partitions")
	w.mustBeFaithful(topic)
	relay.terminate(30 * time.Second)

	w.grow(w.source, topic, 4) // while it is down
	w.fillFrom(topic, 400, 4, 4, 100)
	w.check(w.yaml(pipeline{topics: topic, output: "create_partitions: true"})).
		must(t, "ok", "target", "has 3 partitions; create_partitions: the relay gives it 4 at its start")
	stopped := w.once(pipeline{topics: topic}, 1)
	stopped.mustLog(time.Second, "has 3 partitions and needs 4; add them: kafka-topics.sh --bootstrap-server")
	runTopicCommand(t, stopped.printedCommand())
	w.once(pipeline{topics: topic}, 0)
	w.mustBeExact(topic)
}

func (w *world) drop(c *kafkatest.Cluster, topic string) {
	w.t.Helper()
	if _, err := c.Admin(w.t).DeleteTopic(testContext(w.t), topic); err != nil {
		w.t.Fatal(err)
	}
}

// Topics that match are relayed under their own names, those too that appear
// while the relay runs; the route of one that is deleted ends, and the others go
// on. Listed ones go where the list says, and are not to be deleted.
func TestRegexpTopics(t *testing.T) {
	t.Parallel() // topics of its own, and it waits
	w := newWorld(t)
	a, b, c, listed := w.topic("re.a"), w.topic("re.b"), w.topic("re.c"), w.topic("re.listed")
	other := w.topic("other")
	for _, topic := range []string{a, b, listed, other, w.topic("re.progress"), w.topic("x.re.a")} {
		w.create(w.source, topic, 2)
		w.fill(topic, 100, 2, 100)
	}
	p := pipeline{
		topics: `"` + listed + ":" + other + `"`,
		input:  "regexp_topics_include: [ '" + w.name + `\.re\..*' ]` + "\nmetadata_max_age: 500ms\non_fatal: exit",
		output: "create_topics: true",
	}
	yaml := strings.Replace(w.yaml(p), "progress_topic: "+w.topic("progress"), "progress_topic: "+w.topic("re.progress"), 1)
	w.check(yaml).must(t, "ok", "target", "topic "+a, "create_topics")
	relay := w.runYAML(yaml)
	for _, topic := range []string{a, b, other} {
		w.awaitTarget(topic, 100, time.Minute)
	}
	relay.mustLog(time.Second, "Relaying 2 source topics that regexp_topics_include matches: "+a+", "+b)
	w.create(w.source, c, 3)
	w.fill(c, 300, 3, 100)
	w.awaitTarget(c, 300, time.Minute)
	relay.mustLog(time.Second, "Source topic "+c+" has appeared")
	w.mustBeFaithful(a, b, c)
	for _, topic := range []string{listed, w.topic("x.re.a")} {
		if n, _ := w.topicOn(w.target, topic); n != 0 {
			t.Fatalf("%s was relayed under its own name", topic)
		}
	}
	if out, errs, code := command(t, "verify", w.file(yaml)); code != 0 || !strings.Contains(out, c) {
		t.Fatalf("verify: exit code %d: %s%s", code, out, errs)
	}
	if out, errs, code := command(t, "status", w.file(yaml)); code != 0 || !strings.Contains(out, c+"/2") {
		t.Fatalf("status: exit code %d: %s%s", code, out, errs)
	}

	w.drop(w.source, b)
	relay.mustLog(time.Minute, "Source topic "+b+", which regexp_topics_include matched, is gone from every source: its route ends")
	w.fillFrom(c, 300, 300, 3, 100)
	w.awaitTarget(c, 600, time.Minute)
	w.mustBeFaithful(a, c)
	relay.terminate(30 * time.Second)
	// Again, exactly once; the marks tell of b.
	again := w.runYAML(strings.Replace(yaml, "create_topics: true", "create_topics: true\n    delivery: exactly_once", 1))
	again.mustLog(time.Minute, "1 source topics that were relayed before are on no source that answers, and are not waited for: "+b)
	d := w.topic("re.d")
	w.create(w.source, d, 2)
	w.fill(d, 200, 2, 100)
	eventually(t, time.Minute, d+" is there", func() bool {
		n, _ := w.topicOn(w.target, d)
		return n > 0 && w.compare(oracle.Options{Topics: same(d)}).Exact()
	})

	w.drop(w.source, listed)
	if code := again.wait(time.Minute); code != 1 || !strings.Contains(again.logs(), "has no topic") {
		t.Fatalf("a listed topic is gone: exit code %d", code)
	}
}

// A matched topic that the source lacks and another one has is read there; gone
// from both, its route ends.
func TestRegexpTopicOnOneSource(t *testing.T) {
	t.Parallel() // topics of its own, and it waits
	p := newPool(t, 2)
	a, b := p.all("re.a", 1), p.all("re.b", 1)
	p.fillAll(a, 0, 100, 1, 100)
	p.fillAll(b, 0, 100, 1, 100)
	conf := p.config(pipeline{processors: "- kafka_failover_filter: { name: all, check: 'true' }", input: "regexp_topics_include: [ '" + p.name + `\.re\..*' ]` + "\nmetadata_max_age: 500ms"})
	relay := p.run(conf)
	p.awaitTarget(a, 100, time.Minute)
	p.awaitTarget(b, 100, time.Minute)
	relay.awaitMark(p.world, b, 0, 100)
	p.drop(p.sources[0], b)
	relay.mustLog(time.Minute, "Switched from source dc1 to dc2")
	p.on(1).fillFrom(b, 100, 50, 1, 100)
	p.awaitTarget(b, 150, time.Minute)
	relay.terminate(30 * time.Second)

	relay = p.run(conf) // dc1 is first in the list, and the marks tell of b
	p.on(1).fillFrom(b, 150, 50, 1, 100)
	p.awaitTarget(b, 200, time.Minute)
	p.on(1).mustBeFaithful(b)
	p.drop(p.sources[1], b)
	relay.mustLog(time.Minute, "is gone from every source: its route ends")
	p.fillAll(a, 100, 50, 1, 100)
	p.awaitTarget(a, 150, time.Minute)
}

// The page on topics names each setting that a copy takes over.
func TestDocsMirroredSettings(t *testing.T) {
	page, err := os.ReadFile("docs/topics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range kafka.Mirrored() {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/topics.md does not name %s", name)
		}
	}
}
