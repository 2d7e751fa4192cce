package kafkafailover_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// start_offset says where a partition begins that the target knows nothing of,
// and only that.
func TestStartOffset(t *testing.T) {
	for _, c := range []struct {
		start string
		want  int64 // of 100 records, one a second from 1,700,000,000 on
	}{
		{"earliest", 100}, {"latest", 0}, {"2023-11-14T22:14:00Z", 60}, {"2030-01-01T00:00:00Z", 0},
	} {
		t.Run(c.start, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("start", 1, "retention.ms", "-1")
			var rs []*kgo.Record
			for i := range 100 {
				rs = append(rs, &kgo.Record{Topic: topic, Value: []byte("v"), Timestamp: time.Unix(1_700_000_000+int64(i), 0)})
			}
			w.produce(w.source, rs...)
			p := pipeline{topics: topic, input: fmt.Sprintf("start_offset: %q", c.start)}
			w.once(p, 0)
			if got := ends(t, w.target, topic); got != c.want {
				t.Fatalf("%d records, want %d", got, c.want)
			}
			// The mark now says where to go on, whatever start_offset says.
			w.fillFrom(topic, 100, 10, 1, 50)
			w.once(p, 0)
			if got := ends(t, w.target, topic); got != c.want+10 {
				t.Fatalf("%d records after ten more, want %d", got, c.want+10)
			}
		})
	}
}

// read_uncommitted reads what read_committed leaves out.
func TestIsolationLevel(t *testing.T) {
	w := newWorld(t)
	topic := w.both("isolation", 1)
	w.fill(topic, 10, 1, 50)
	w.transact(topic, 0, 5, kgo.TryAbort)
	w.once(pipeline{topics: topic, input: "transaction_isolation_level: read_uncommitted"}, 0)
	if got := ends(t, w.target, topic); got != 15 {
		t.Fatalf("%d records, want 15 with the aborted ones", got)
	}
}

// Batches end at their limits; however small, everything arrives once.
func TestBatchLimits(t *testing.T) {
	w := newWorld(t)
	topic := w.both("limits", 2)
	w.fill(topic, 2_000, 2, 500)
	w.once(pipeline{topics: topic, input: "batch_max_records: 7", processors: "- mapping: 'root = if batch_size() > 7 { throw(\"too many\") } else { content() }'"}, 0)
	w.mustBeExact(topic)
	other := newWorld(t)
	topic = other.both("limits", 2)
	other.fill(topic, 2_000, 2, 500)
	other.once(pipeline{topics: topic, input: "batch_max_bytes: 2KiB", processors: "- mapping: 'root = if batch_size() > 4 { throw(\"too large\") } else { content() }'"}, 0)
	other.mustBeExact(topic)
}

// With retries spent the relay gives up, by name; on_fatal: exit ends it.
func TestRetriesSpent(t *testing.T) {
	w := newWorld(t)
	topic := w.both("retries", 1)
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	y := strings.ReplaceAll(w.yaml(pipeline{topics: topic, input: "on_fatal: exit\nretry: { max_retries: 2, initial_interval: 50ms, max_interval: 100ms }"}),
		w.target.Brokers()[0], fmt.Sprintf("127.0.0.1:%d", ports[0]))
	relay := w.runYAML(y)
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustLog(time.Second, "gave up after 3 attempts")
}

// on_fatal: stop keeps the process up, unready, with the reason.
func TestFatalStaysUpUnready(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("stay")
	w.create(w.source, topic, 1)
	relay := w.run(pipeline{topics: topic})
	eventually(t, 30*time.Second, "/ready names the missing topic", func() bool {
		code, body := relay.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "does not exist")
	})
	select {
	case <-relay.done:
		t.Fatal("the process ended")
	default:
	}
	if n := strings.Count(relay.logs(), "does not exist"); n != 1 {
		t.Fatalf("the reason is logged %d times", n)
	}
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

// A three-node target whose brokers are killed with -9 one after the other, and
// one of which hangs for a while, with two in-sync replicas needed.
func TestThreeNodeTargetRolling(t *testing.T) {
	t.Parallel() // clusters or topics of its own, and it waits a lot
	w := newWorld(t)
	w.target = kafkatest.Start(t, "three", kafkatest.Options{Nodes: 3, Props: map[string]string{"min.insync.replicas": "2"}})
	topic := w.both("rolling", 3)
	load := w.load(topic, 3, 200, 5_000)
	relay := w.run(pipeline{topics: topic, processors: "- mapping: root = content()", threads: 4})
	w.awaitTarget(topic, 5_000, time.Minute)
	for i := range count(1, 3) {
		w.target.Kill(i)
		before := w.endsNow(topic)
		eventually(t, time.Minute, "the other two take records", func() bool { return w.endsNow(topic) > before+5_000 })
		if err := w.target.Restart(i); err != nil {
			t.Fatal(err)
		}
		w.awaitInSync(topic, 3)
	}
	w.target.Pause(1)
	before := w.endsNow(topic)
	eventually(t, time.Minute, "records go on with one node hanging", func() bool { return w.endsNow(topic) > before+2_000 })
	w.target.Resume(1)
	load.stop()
	w.awaitTarget(topic, int64(load.count()), time.Minute)
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	rep := w.mustBeFaithful(topic)
	t.Log(rep)
}

// endsNow sums the target's end offsets, 0 while they cannot all be had.
func (w *world) endsNow(topic string) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	l, err := w.target.Admin(w.t).ListEndOffsets(ctx, topic)
	if err != nil || l.Error() != nil {
		return 0
	}
	var n int64
	for _, ps := range l {
		for _, p := range ps {
			n += p.Offset
		}
	}
	return n
}

// awaitInSync waits until every partition has n in-sync replicas.
func (w *world) awaitInSync(topic string, n int) {
	w.t.Helper()
	eventually(w.t, time.Minute, "all replicas are in sync", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		m, err := w.target.Admin(w.t).Metadata(ctx, topic)
		if err != nil {
			return false
		}
		for _, p := range m.Topics[topic].Partitions {
			if len(p.ISR) < n {
				return false
			}
		}
		return len(m.Topics[topic].Partitions) > 0
	})
}

// auto puts a key where Kafka's own Java producer puts it.
func TestAutoAgreesWithJava(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	src, byJava, byRelay := w.topic("keys"), w.topic("java"), w.topic("relay")
	w.create(w.source, src, 2)
	w.create(w.target, byJava, 7)
	w.create(w.target, byRelay, 7)
	var in strings.Builder
	for i := range 300 {
		fmt.Fprintf(&in, "key-%d-\u00fc=value\n", i*i)
	}
	javaProduce(t, w.source, src, in.String())
	javaProduce(t, w.target, byJava, in.String())
	w.once(pipeline{topics: src + ":" + byRelay + ":auto"}, 0)
	where := map[string]int32{}
	w.eachTarget(byJava, func(r *kgo.Record) { where[string(r.Key)] = r.Partition })
	rep := w.compare(oracle.Options{Topics: map[string]string{src: byRelay}, Partition: func(r *kgo.Record) int32 { return where[string(r.Key)] }})
	if !rep.Exact() || rep.Source != 300 {
		t.Fatal(rep)
	}
}

// With a load that never ends, stop_at_end ends with what was there at start.
func TestStopAtEndUnderLoad(t *testing.T) {
	w := newWorld(t)
	topic := w.both("endless", 2)
	w.fill(topic, 50_000, 2, 100)
	load := w.load(topic, 2, 100, 5_000)
	defer load.stop()
	before := ends(t, w.source, topic)
	w.once(pipeline{topics: topic}, 0)
	after := ends(t, w.source, topic)
	if got := ends(t, w.target, topic); got < before || got >= after {
		t.Fatalf("target holds %d records; the source held %d before and %d after", got, before, after)
	}
}

// A source cluster that the marks do not know must hold the records that were
// relayed before.
func TestAnotherSourceIsCompared(t *testing.T) {
	t.Parallel() // topics of its own
	for _, equal := range []bool{true, false} {
		t.Run(fmt.Sprintf("equal=%v", equal), func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("agree", 1)
			w.fill(topic, 1_000, 1, 100)
			w.once(pipeline{topics: topic}, 0)
			other := *w
			other.source = sharedCluster(t, "src2")
			other.create(other.source, topic, 1)
			if equal {
				other.fill(topic, 1_100, 1, 100)
				other.once(pipeline{topics: topic}, 0)
				other.mustBeExact(topic)
				return
			}
			other.fillFrom(topic, 5_000, 1_100, 1, 100)
			other.once(pipeline{topics: topic}, 1).mustLog(time.Second, "does not hold the records that were relayed before")
			if got := ends(t, w.target, topic); got != 1_000 {
				t.Fatalf("%d records in the target, want 1000: nothing of the other source", got)
			}
		})
	}
}

// A progress topic that could lose marks is refused.
func TestProgressTopicIsChecked(t *testing.T) {
	for says, make := range map[string]struct {
		partitions int32
		configs    []string
	}{
		"partitions and needs exactly 1":  {2, []string{"cleanup.policy", "compact", "segment.bytes", "16777216"}},
		"retention would delete marks":    {1, []string{"cleanup.policy", "delete", "segment.bytes", "16777216"}},
		"leave too much to read at start": {1, []string{"cleanup.policy", "compact", "segment.bytes", "104857600"}},
	} {
		t.Run(says, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("p", 1)
			w.create(w.target, w.topic("progress"), make.partitions, make.configs...)
			w.once(pipeline{topics: topic}, 1).mustLog(time.Second, says)
		})
	}
}

// Topics that are deleted and stay away, live: a stop for each.
func TestTopicsGoneForGood(t *testing.T) {
	t.Parallel() // clusters or topics of its own, and it waits a lot
	for _, which := range []string{"source", "target", "progress"} {
		t.Run(which, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("gone", 1)
			w.fill(topic, 100, 1, 100)
			relay := w.run(pipeline{topics: topic, input: "on_fatal: exit"})
			relay.awaitMark(w, topic, 0, 100)
			on, name := w.target, topic
			switch which {
			case "source":
				on = w.source
			case "progress":
				name = w.topic("progress")
			}
			if _, err := on.Admin(t).DeleteTopic(testContext(t), name); err != nil {
				t.Fatal(err)
			}
			if code := relay.wait(time.Minute); code != 1 {
				t.Fatalf("exit code %d, want 1", code)
			}
		})
	}
}

// on_fatal: exit ends the process also while it watches its files, which keeps
// the engine alive.
func TestFatalExitsWhileWatching(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.topic("watched")
	w.create(w.source, topic, 1)
	relay := w.runYAML(w.yaml(pipeline{topics: topic, input: "on_fatal: exit", top: "shutdown_timeout: 5s"}), "-w")
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustLog(time.Second, "does not exist")
}
