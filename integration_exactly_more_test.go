package kafkafailover_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// committed follows a target topic as readers of committed records see it.
func (w *world) committed(topic string) *kgo.Client {
	return w.target.Client(w.t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(20*time.Millisecond))
}

// A transaction is committed at once when nothing more comes, when half the
// window is in it, and when the relay is stopped, whatever the interval.
func TestExactlyOnceCommits(t *testing.T) {
	w := exactWorld(t, threeNodes(t))
	topic := w.both("commits", 1)
	cl := w.committed(topic)
	got := 0
	await := func(n int, within time.Duration, what string) {
		t.Helper()
		eventually(t, within, what, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			got += cl.PollFetches(ctx).NumRecords()
			return got >= n
		})
	}
	p := exactly(pipeline{topics: topic, input: "batch_max_bytes: 1MiB", output: "commit_interval: 25s\nmax_in_flight: 4"})
	relay := w.run(p)
	relay.mustLog(time.Minute, "Reading from source")
	w.fill(topic, 1, 1, 100)
	await(1, 10*time.Second, "one record is committed, since no other comes")
	load := w.loadOf(5_000, func(i int) *kgo.Record { return plainRecord(topic, 1+i, 1, 2_000) }) // 2 MiB take a fifth of a second
	await(10_000, 15*time.Second, "half a window is committed")
	load.stop()
	relay.signal(15) // in the middle, or behind it: either way nothing is written again
	if code := relay.wait(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if n := len(w.aborted(topic)); n != 0 {
		t.Fatalf("records of %d partitions were aborted by a stop in good order", n)
	}
	w.once(p, 0)
	w.mustBeExact(topic)
	// Every record of it is part of a transaction.
	all := w.target.Client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	all.PollFetches(testContext(t)).EachRecord(func(r *kgo.Record) {
		if !r.Attrs.IsTransactional() {
			t.Fatalf("offset %d is in no transaction", r.Offset)
		}
	})
}

// The tail of the target is compacted away, and it ends in a tombstone that is:
// the marks alone say where to go on.
func TestExactlyOnceCompactedTail(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("compacted")
	w.create(w.source, topic, 1)
	w.create(w.target, topic, 1, "cleanup.policy", "compact", "segment.ms", "100", "min.cleanable.dirty.ratio", "0.0",
		"delete.retention.ms", "0", "max.compaction.lag.ms", "100", "min.compaction.lag.ms", "0")
	key := []byte("same")
	w.fillOf(500, func(i int) *kgo.Record {
		return &kgo.Record{Topic: topic, Key: key, Value: fmt.Appendf(nil, `{"n":%d}`, i), Timestamp: epoch}
	})
	w.fillOf(1, func(int) *kgo.Record { return &kgo.Record{Topic: topic, Key: key, Timestamp: epoch} })
	p := exactly(pipeline{topics: topic})
	w.once(p, 0)
	poke := 0 // the active segment is not cleaned
	eventually(t, time.Minute, "everything that was relayed is compacted away", func() bool {
		poke++
		w.produce(w.target, &kgo.Record{Topic: topic, Key: []byte("poke"), Value: fmt.Append(nil, poke)})
		time.Sleep(300 * time.Millisecond)
		left := 0
		cl := w.committed(topic)
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if string(r.Key) == "same" {
				left++
			}
		})
		return left == 0
	})
	w.fillOf(100, func(i int) *kgo.Record {
		return &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "new-%d", i), Value: []byte("{}"), Timestamp: epoch}
	})
	w.once(p, 0).mustLog(time.Second, ": 100 records read")
	rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
		if r.Offset <= 500 {
			return nil
		}
		return r
	}})
	if rep.Source != 100 || rep.Lost+rep.Duplicated+rep.Reordered+rep.Altered != 0 || rep.Foreign > poke {
		t.Fatal(rep)
	}
}

// A filter that drops nearly everything, killed under load: no start reads again
// what was committed as filtered.
func TestExactlyOnceFilterKilled(t *testing.T) {
	t.Parallel() // topics of its own
	r := seeded(t)
	w := exactWorld(t, threeNodes(t))
	topic := w.both("filtered", 3)
	load := w.load(topic, 3, 100, 10_000)
	p := exactly(pipeline{topics: topic, threads: 4, processors: "- mapping: 'root = if this.n % 1000 != 0 { deleted() }'"})
	for range count(3, 20) {
		relay := w.run(p)
		before, _ := w.status(w.yaml(p))
		eventually(t, time.Minute, "positions move", func() bool {
			s, _ := w.status(w.yaml(p))
			return s.position() > before.position()+3_000
		})
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond) // a random moment
		relay.kill()
	}
	load.stop()
	s, _ := w.status(w.yaml(p))
	left := int64(load.count()) - s.position()
	w.once(p, 0).mustLog(time.Second, fmt.Sprintf(": %d records read", left))
	rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
		if n := string(r.Headers[0].Value); n != "0" && !strings.HasSuffix(n, "000") {
			return nil
		}
		return r
	}})
	if t.Log(rep); !rep.Exact() || rep.Source != (load.count()+999)/1000 {
		t.Fatal(rep)
	}
}

func (s stated) position() (sum int64) {
	for _, p := range s.Partitions {
		sum += max(0, p.Position)
	}
	return sum
}

// What breaks order or refuses messages between input and output stops the relay
// in transactions too, and nothing of a batch that was refused in part is
// committed: once it is removed, everything is there once.
func TestExactlyOnceBreakers(t *testing.T) {
	t.Parallel() // topics of its own
	for name, c := range map[string]struct {
		p    pipeline
		says string
	}{
		"reject_errored": {pipeline{processors: `- mapping: 'root = if this.n == 9500 { throw("no") }'`, outputYAML: "reject_errored: { %s }"}, "refused by something other than the kafka_failover output"},
		"split":          {pipeline{processors: "- split: { size: 10 }"}, "twice"},
		// The first part lands long before the second, and must not be committed alone.
		"slow split":  {pipeline{processors: "- split: { size: 500 }", outputYAML: "processors: [ { sleep: { duration: '${! if json(\"n\") %% 1000 >= 500 { \"2ms\" } else { \"0s\" } }' } } ]\n  %s"}, "twice"},
		"metadata":    {pipeline{processors: `- mapping: 'meta = if this.n == 9500 { deleted() }'`}, "without its origin"},
		"partition":   {pipeline{output: `partition: '${! if json("n") == 9500 { "x" } else { "0" } }'`}, "and must be a number from 0 to 0, of topic"},
		"topic":       {pipeline{output: `topic: '${! if json("n") == 9500 { "no.such.topic" } else { @kafka_topic } }'`}, "which topic gives for it, does not exist; create it"},
		"empty topic": {pipeline{output: `topic: '${! if json("n") == 9500 { "" } else { @kafka_topic } }'`}, "topic is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("breaker", 1)
			w.fill(topic, 12_000, 1, 100)
			p := c.p
			p.topics = topic
			if p.outputYAML != "" {
				p.outputYAML = fmt.Sprintf(p.outputYAML, fmt.Sprintf("kafka_failover: { seed_brokers: [ %q ], relay_id: %s, progress_topic: %s, delivery: exactly_once }",
					w.target.Brokers()[0], w.name, w.topic("progress")))
			} else {
				p = exactly(p)
			}
			p.input = "batch_max_records: 1000"
			w.once(p, 1).mustLog(time.Second, c.says)
			w.once(exactly(pipeline{topics: topic}), 0)
			w.mustBeExact(topic)
		})
	}
}

// A bad place is a bad record: on_error: drop leaves it out.
func TestExactlyOnceBadPlaceDropped(t *testing.T) {
	w := newWorld(t)
	topic := w.both("place", 1)
	w.fill(topic, 3_000, 1, 100)
	w.once(exactly(pipeline{topics: topic, output: `partition: '${! if json("n") == 500 { "x" } else { "0" } }'` + "\non_error: drop"}), 0)
	rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
		if r.Offset == 500 {
			return nil
		}
		return r
	}})
	if !rep.Exact() || rep.Source != 2_999 {
		t.Fatal(rep)
	}
}

// A transaction of somebody else that is open in the progress topic is waited
// for, and its producer named.
func TestExactlyOnceStuckTransaction(t *testing.T) {
	t.Parallel() // clusters or topics of its own, and it waits a lot
	w := newWorld(t)
	topic := w.both("stuck", 1)
	w.fill(topic, 100, 1, 100)
	p := exactly(pipeline{topics: topic})
	w.once(p, 0)
	other := w.target.Client(t, kgo.TransactionalID(w.name+"-other"))
	if err := other.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := other.ProduceSync(testContext(t), &kgo.Record{Topic: w.topic("progress"), Key: []byte("x"), Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.fillFrom(topic, 100, 100, 1, 100)
	relay := w.run(p)
	eventually(t, time.Minute, "/ready names the producer", func() bool {
		code, body := relay.ready()
		return code == 503 && strings.Contains(body, w.name+"-other")
	})
	if err := other.EndTransaction(testContext(t), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "it goes on by itself", func() bool {
		s, _ := w.status(w.yaml(p))
		return len(s.Partitions) == 1 && s.Partitions[0].Position == 200
	})
	relay.terminate(30 * time.Second)
	w.mustBeExact(topic)
}

// Two relays that share a relay_id by mistake, with topics of their own: the
// older one stops, and they do not fence each other for ever.
func TestExactlyOnceSharedID(t *testing.T) {
	w := newWorld(t)
	a, b := w.both("a", 1), w.both("b", 1)
	load := w.load(a, 1, 100, 1_000)
	first := w.run(exactly(pipeline{topics: a, input: "on_fatal: exit"}))
	w.awaitTarget(a, 500, time.Minute)
	w.fill(b, 1_000, 1, 100)
	second := w.run(exactly(pipeline{topics: b}))
	if code := first.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	first.mustLog(time.Second, "has taken over")
	w.awaitTarget(b, 1_000, time.Minute)
	second.terminate(30 * time.Second)
	w.mustBeExact(b)
	w.finish(exactly(pipeline{topics: a}), load, a)
}

// The target lacks what transactions need: one clear error, from the relay and
// from check, and the cure it names works.
func TestExactlyOnceTargetLacks(t *testing.T) {
	t.Parallel() // topics of its own
	old := kafkatest.Start(t, "old", kafkatest.Options{Features: map[string]int{"transaction.version": 1}, Props: map[string]string{
		"authorizer.class.name":          "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"allow.everyone.if.no.acl.found": "true",
	}})
	w := exactWorld(t, old)
	topic := w.both("lacks", 1)
	w.fill(topic, 100, 1, 100)
	p := exactly(pipeline{topics: topic})
	both := func(says string) {
		t.Helper()
		w.once(p, 1).mustLog(time.Second, says)
		if out, code := cli(t, "check", w.file(w.yaml(p))); code != 1 || !strings.Contains(strings.Join(strings.Fields(out), " "), says) {
			t.Errorf("check: exit code %d: %s", code, out)
		}
	}
	both("needs transaction.version 2 on the target (Kafka 4.0 or newer), which has 1;")

	req := kmsg.NewPtrUpdateFeaturesRequest()
	req.FeatureUpdates = []kmsg.UpdateFeaturesRequestFeatureUpdate{{Feature: "transaction.version", MaxVersionLevel: 2, UpgradeType: 1}}
	if _, err := old.Client(t).Request(testContext(t), req); err != nil {
		t.Fatal(err)
	}
	acl := kadm.NewACLs().Deny("User:ANONYMOUS").DenyHosts("*").TransactionalIDs(w.name+".0").Operations(kadm.OpWrite, kadm.OpDescribe).ResourcePatternType(kadm.ACLPatternLiteral)
	created, err := old.Admin(t).CreateACLs(testContext(t), acl)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range created {
		if c.Err != nil {
			t.Fatal(c.Err)
		}
	}
	both("does not let this relay use transactional.id")
	if _, err := old.Admin(t).DeleteACLs(testContext(t), acl); err != nil {
		t.Fatal(err)
	}
	p.output += "\ntransaction_timeout: 2h"
	both("raise transaction.max.timeout.ms")
	p = exactly(pipeline{topics: topic})
	w.once(p, 0)
	if out, code := cli(t, "check", w.file(w.yaml(p))); code != 0 || !strings.Contains(out, "transactional.id "+w.name+".0") {
		t.Errorf("check: exit code %d: %s", code, out)
	}
	w.mustBeExact(topic)
}

// What cannot go together is refused by name.
func TestExactlyOnceRefusals(t *testing.T) {
	w := newWorld(t)
	topic := w.both("refusals", 1)
	w.once(exactly(pipeline{topics: topic, output: "commit_interval: 40s"}), 1).mustLog(time.Second, "the first must be at most half of the second")
	plain := exactly(pipeline{inputYAML: "generate: { count: 1, mapping: 'root = {}' }", output: "topic: " + topic})
	w.run(plain).mustLog(time.Minute, "has delivery: exactly_once, which is for what a kafka_failover input reads")
	content := w.file(w.yaml(exactly(pipeline{topics: topic, output: "topic: x"})))
	if out, code := cli(t, "verify", content); code == 0 || !strings.Contains(out, "verify follows the routes") {
		t.Errorf("verify: exit code %d: %s", code, out)
	}
}

// config/exactly_once.yaml runs as it stands.
func TestExactlyOnceConfig(t *testing.T) {
	w := newWorld(t)
	const topic = "orders_exactly"
	w.create(w.source, topic, 2)
	w.create(w.target, topic, 2)
	w.fill(topic, 1_000, 2, 100)
	t.Setenv("SOURCE_BROKERS", strings.Join(w.source.Brokers(), ","))
	t.Setenv("TARGET_BROKERS", strings.Join(w.target.Brokers(), ","))
	b, err := os.ReadFile("config/exactly_once.yaml")
	if err != nil {
		t.Fatal(err)
	}
	relay := w.runYAML(regexp.MustCompile(`topics: \[ orders \]`).ReplaceAllString(string(b), "topics: [ "+topic+" ]"))
	w.awaitTarget(topic, 1_000, time.Minute)
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeExact(topic)
}
