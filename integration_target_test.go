package kafkafailover_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

// The target's broker is killed under load and restarted: a wait, nothing else.
func TestTargetKilledUnderLoad(t *testing.T) {
	w := newWorld(t)
	topic := w.both("targetKill", 4)
	load := w.load(topic, 4, 200, 10_000)
	relay := w.run(pipeline{topics: topic, processors: "- mapping: root = content()", threads: 4})
	for range count(2, 5) {
		before := ends(t, w.target, topic)
		w.awaitTarget(topic, before+5_000, time.Minute)
		w.target.Kill(0)
		if err := w.target.Restart(0); err != nil {
			t.Fatal(err)
		}
	}
	load.stop()
	w.awaitTarget(topic, int64(load.count()), time.Minute)
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	rep := w.mustBeFaithful(topic)
	t.Log(rep)
}

// The target is down for long: memory stays bounded by the window, /ready says
// why, and the relay goes on by itself. The source's records are large JSON
// compressed by zstd, which decompressed fill memory fastest.
func TestTargetDownForLong(t *testing.T) {
	w := newWorld(t)
	topic := w.both("down", 4)
	n := count(200_000, 600_000)
	cl := w.source.Client(t, kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerLinger(20*time.Millisecond), kgo.MaxBufferedRecords(100_000))
	words := strings.Fields(strings.Repeat("order customer amount currency status created shipped address street city country invoice ", 1))
	r := seeded(t)
	for i := range n {
		v := fmt.Appendf(nil, `{"n":%d`, i)
		for len(v) < 1000 {
			v = fmt.Appendf(v, `,"%s_%d":"%s %d"`, words[r.IntN(len(words))], len(v), words[r.IntN(len(words))], r.IntN(1000))
		}
		cl.Produce(context.Background(), &kgo.Record{Topic: topic, Partition: int32(i % 4), Value: append(v, '}')}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	const inFlight, batch = 8, 1 << 20
	relay := w.run(pipeline{topics: topic, input: "batch_max_bytes: 1MiB\nfetch_max_bytes: 1MiB\nfetch_max_partition_bytes: 256KiB", output: fmt.Sprintf("max_in_flight: %d", inFlight)})
	w.awaitTarget(topic, 1_000, time.Minute)
	w.target.Kill(0)
	eventually(t, 30*time.Second, "/ready says that the target is down", func() bool {
		code, body := relay.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "target")
	})
	time.Sleep(time.Duration(count(5, 60)) * time.Second) // the outage itself
	peak := relay.peakMemory()
	// The binary, the collector's soft limit (160 MiB and twice the window of
	// 8 MiB), and fetch buffers of 1 MiB, compressed to a quarter.
	if limit := int64(350 << 20); peak > limit {
		t.Fatalf("peak memory %d MiB, want at most %d MiB", peak>>20, limit>>20)
	}
	t.Logf("peak memory %d MiB with the target down", peak>>20)
	if err := w.target.Restart(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "/ready is 200 again", func() bool { code, _ := relay.ready(); return code == http.StatusOK })
	w.awaitTarget(topic, int64(n), 2*time.Minute)
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeFaithful(topic)
	if c := strings.Count(relay.logs(), "cannot be reached"); c > 3 {
		t.Fatalf("one outage was logged %d times", c)
	}
}

// peakMemory is the relay's largest resident memory so far.
func (p *proc) peakMemory() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	p.t.Fatal("no VmHWM in /proc")
	return 0
}

// SIGTERM while the target is down ends the relay within shutdown_timeout.
func TestTerminateWithTargetDown(t *testing.T) {
	w := newWorld(t)
	target := kafkatest.Start(t, "dying", kafkatest.Options{})
	w.target = target
	topic := w.both("term", 2)
	w.fill(topic, 100_000, 2, 200)
	relay := w.run(pipeline{topics: topic, top: "shutdown_timeout: 5s"})
	w.awaitTarget(topic, 1, time.Minute)
	target.Kill(0)
	w.fillFrom(topic, 100_000, 10_000, 2, 200)
	relay.mustLog(30*time.Second, "cannot be reached")
	start := time.Now()
	relay.terminate(7 * time.Second)
	t.Logf("ended %s after SIGTERM", time.Since(start).Round(time.Millisecond))
	if err := target.Restart(0); err != nil {
		t.Fatal(err)
	}
	if code := w.run(pipeline{topics: topic, input: stopAtEnd}).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeFaithful(topic)
}

// once relays a topic to its end and expects an exit code.
func (w *world) once(p pipeline, want int) *proc {
	w.t.Helper()
	p.input += "\n" + stopAtEnd
	relay := w.run(p)
	if code := relay.wait(2 * time.Minute); code != want {
		w.t.Fatalf("exit code %d, want %d", code, want)
	}
	return relay
}

// What the relay does about a target that is not what it left behind.
func TestTargetChangedWhileDown(t *testing.T) {
	t.Parallel() // topics of its own
	setup := func(t *testing.T) (*world, string, pipeline) {
		w := newWorld(t)
		topic := w.both("changed", 1)
		w.fill(topic, 1_000, 1, 100)
		p := pipeline{topics: topic}
		w.once(p, 0)
		return w, topic, p
	}
	t.Run("emptied by retention goes on from the mark", func(t *testing.T) {
		w, topic, p := setup(t)
		w.trim(w.target, topic, 0, 1_000)
		w.fillFrom(topic, 1_000, 100, 1, 100)
		w.once(p, 0)
		if got := ends(t, w.target, topic); got != 1_100 {
			t.Fatalf("target ends at %d, want 1100", got)
		}
	})
	t.Run("topic recreated stops, and the printed command lets it begin again", func(t *testing.T) {
		w, topic, p := setup(t)
		if _, err := w.target.Admin(t).DeleteTopic(testContext(t), topic); err != nil {
			t.Fatal(err)
		}
		w.recreate(w.target, topic, 1)
		relay := w.once(p, 1)
		relay.mustLog(time.Second, "was deleted and recreated")
		w.runCure(relay)
		w.once(p, 0)
		w.mustBeExact(topic)
	})
	t.Run("truncated below the mark stops", func(t *testing.T) {
		w, topic, p := setup(t)
		w.forgeMark(topic, func(m *position.Mark) { m.Covered[0] = 1_050 })
		w.once(p, 1).mustLog(time.Second, "has lost acknowledged records")
	})
	t.Run("progress topic deleted stops", func(t *testing.T) {
		w, _, p := setup(t)
		if _, err := w.target.Admin(t).DeleteTopic(testContext(t), w.topic("progress")); err != nil {
			t.Fatal(err)
		}
		w.once(p, 1).mustLog(time.Second, "its marks are gone")
	})
	t.Run("foreign records at the tail are crossed", func(t *testing.T) {
		w, topic, p := setup(t)
		var foreign []*kgo.Record
		for i := range 200 {
			foreign = append(foreign, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "foreign %d", i)})
		}
		w.produce(w.target, foreign...)
		w.fillFrom(topic, 1_000, 100, 1, 100)
		w.once(p, 0)
		if got := ends(t, w.target, topic); got != 1_300 {
			t.Fatalf("target ends at %d, want 1300: nothing twice", got)
		}
		if got := len(w.countRelayed(topic)); got != 1_100 {
			t.Fatalf("%d records relayed, want 1100", got)
		}
	})
	t.Run("another relay_id is named", func(t *testing.T) {
		w, _, p := setup(t)
		other := *w
		other.name = w.name + "x"
		y := strings.ReplaceAll(other.yaml(p), other.topic("progress"), w.topic("progress")) // the same progress topic
		y = strings.Replace(y, "topics: [", "stop_at_end: true\n    topics: [", 1)
		relay := w.runYAML(y)
		if code := relay.wait(time.Minute); code != 1 {
			t.Fatalf("exit code %d, want 1", code)
		}
		relay.mustLog(time.Second, "set relay_id to that one to go on where it stopped")
	})
}

// countRelayed counts records of the target that carry an origin.
func (w *world) countRelayed(topic string) map[string]int {
	out := map[string]int{}
	w.eachTarget(topic, func(r *kgo.Record) {
		if h := r.Headers; len(h) > 0 && h[len(h)-1].Key == "_origin" {
			out[string(h[len(h)-1].Value)]++
		}
	})
	return out
}

// forgeMark rewrites the mark of partition 0.
func (w *world) forgeMark(topic string, change func(*position.Mark)) {
	w.t.Helper()
	key := position.Key{RelayID: w.name, Source: position.TP{Topic: topic}, Target: topic}
	m := w.marks()[key].Mark
	change(&m)
	w.produce(w.target, &kgo.Record{Topic: w.topic("progress"), Key: []byte(key.String()), Value: m.Encode()})
}

// A target that another tool copied, without marks and headers.
func TestTargetCopiedByAnotherTool(t *testing.T) {
	setup := func(t *testing.T, copied int, change func(i int, r *kgo.Record)) (*world, string) {
		w := newWorld(t)
		topic := w.both("copied", 1)
		w.fill(topic, 500, 1, 100)
		var rs []*kgo.Record
		for i := range copied {
			r := plainRecord(topic, i, 1, 100)
			r.Headers = nil
			change(i, r)
			rs = append(rs, r)
		}
		w.produce(w.target, rs...)
		return w, topic
	}
	asIs := func(int, *kgo.Record) {}
	t.Run("equal goes on behind it", func(t *testing.T) {
		w, topic := setup(t, 300, asIs)
		w.once(pipeline{topics: topic}, 0)
		if got := ends(t, w.target, topic); got != 500 {
			t.Fatalf("target ends at %d, want 500", got)
		}
		if got := len(w.countRelayed(topic)); got != 200 {
			t.Fatalf("%d records relayed, want 200", got)
		}
	})
	t.Run("different stops and shows both", func(t *testing.T) {
		w, topic := setup(t, 300, func(_ int, r *kgo.Record) { r.Value = []byte("other") })
		relay := w.once(pipeline{topics: topic}, 1)
		relay.mustLog(time.Second, "is not a copy of")
		relay.mustLog(time.Second, "resume: watermark")
		if got := ends(t, w.target, topic); got != 300 {
			t.Fatalf("target ends at %d, want 300", got)
		}
	})
	t.Run("resume watermark insists, without marks and headers", func(t *testing.T) {
		w, topic := setup(t, 300, func(_ int, r *kgo.Record) { r.Value = []byte("other") })
		w.once(pipeline{topics: topic, input: "resume: watermark", output: `origin_header: ""`}, 0)
		if got := ends(t, w.target, topic); got != 500 {
			t.Fatalf("target ends at %d, want 500", got)
		}
		if got := len(w.countRelayed(topic)); got != 0 {
			t.Fatalf("%d records carry a header", got)
		}
		if l, _ := w.target.Admin(t).ListTopics(testContext(t), w.topic("progress")); l.Has(w.topic("progress")) && l[w.topic("progress")].Err == nil {
			t.Fatal("a progress topic was created")
		}
	})
	t.Run("resume watermark refuses a filter", func(t *testing.T) {
		w, topic := setup(t, 300, asIs)
		relay := w.once(pipeline{topics: topic, input: "resume: watermark", processors: "- mapping: 'root = if this.n % 2 == 0 { deleted() }'"}, 1)
		relay.mustLog(time.Second, "must keep its offset")
	})
	t.Run("remapped routes stop", func(t *testing.T) {
		w, topic := setup(t, 300, asIs)
		relay := w.once(pipeline{topics: topic + ":" + topic + ":0"}, 1)
		relay.mustLog(time.Second, "cannot be checked by offsets")
	})
	t.Run("resume start relays all behind it", func(t *testing.T) {
		w, topic := setup(t, 300, asIs)
		w.once(pipeline{topics: topic, input: "resume: start"}, 0)
		if got := ends(t, w.target, topic); got != 800 {
			t.Fatalf("target ends at %d, want 800", got)
		}
	})
}

// Topics deleted while the relay runs.
func TestTopicsDeletedLive(t *testing.T) {
	for _, which := range []string{"target", "progress"} {
		t.Run(which, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("live", 1)
			w.fill(topic, 100, 1, 100)
			relay := w.run(pipeline{topics: topic, input: "on_fatal: exit"})
			relay.awaitMark(w, topic, 0, 100)
			gone := topic
			if which == "progress" {
				gone = w.topic("progress")
			}
			if _, err := w.target.Admin(t).DeleteTopic(testContext(t), gone); err != nil {
				t.Fatal(err)
			}
			w.recreate(w.target, gone, 1)
			w.fillFrom(topic, 100, 100, 1, 100)
			if code := relay.wait(time.Minute); code != 1 {
				t.Fatalf("exit code %d, want 1", code)
			}
			relay.mustLog(time.Second, map[string]string{"target": "deleted and recreated", "progress": "the marks are gone"}[which])
			if got := ends(t, w.target, topic); which == "target" && got != 0 {
				t.Fatalf("%d records were spliced onto the new topic", got)
			}
		})
	}
}

// Two instances with one relay_id: the older one ends and says so.
func TestTwoInstances(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("two", 2)
	load := w.load(topic, 2, 100, 2_000)
	first := w.run(pipeline{topics: topic, input: "on_fatal: exit"})
	w.awaitTarget(topic, 500, time.Minute)
	second := w.run(pipeline{topics: topic, input: "on_fatal: exit"})
	if code := first.wait(30 * time.Second); code != 1 {
		t.Fatalf("exit code of the older one %d, want 1", code)
	}
	first.mustLog(time.Second, "another instance with relay_id")
	w.awaitTarget(topic, 15_000, time.Minute) // side by side would double all of these
	load.stop()
	eventually(t, time.Minute, "the newer one relays everything", func() bool {
		return len(w.countOrigins(topic)) == load.count()
	})
	if code := second.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code of the newer one %d", code)
	}
	rep := w.compare(oracle.Options{Topics: same(topic)})
	t.Log(rep)
	if rep.Lost+rep.Altered+rep.Misplaced+rep.Foreign != 0 {
		t.Fatal(rep)
	}
	// A look a second, and what that second holds; the copies of the two stand
	// among each other, which only transactions could prevent.
	if rep.Duplicated > 6_000 || rep.Reordered > rep.Duplicated {
		t.Fatal("the two went on side by side")
	}
}

// A partition is added and a route changed while the relay is down.
func TestRouteChangedWhileDown(t *testing.T) {
	w := newWorld(t)
	topic := w.both("grow", 2)
	w.fill(topic, 1_000, 2, 100)
	w.once(pipeline{topics: topic}, 0)
	for _, c := range []*kafkatest.Cluster{w.source, w.target} {
		if _, err := c.Admin(t).UpdatePartitions(testContext(t), 3, topic); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, "three partitions are known", func() bool {
		m, err := w.source.Admin(t).Metadata(context.Background(), topic)
		return err == nil && len(m.Topics[topic].Partitions) == 3
	})
	w.fillFrom(topic, 999, 1_200, 3, 100)
	w.once(pipeline{topics: topic}, 0)
	w.mustBeExact(topic)
	// The same topics, now everything into partition 0: marks name the old
	// partitions, and what is done stays done.
	w.fillFrom(topic, 3_000, 300, 3, 100)
	w.once(pipeline{topics: topic + ":" + topic + ":0"}, 0)
	if got := len(w.countOrigins(topic)); got != 2_500 {
		t.Fatalf("%d source records in the target, want 2500", got)
	}
	if got := ends(t, w.target, topic); got != 2_500 {
		t.Fatalf("target holds %d records, want 2500: nothing twice", got)
	}
}

// A missing topic and too few partitions are said with the command that mends
// them.
func TestMissingTargetTopic(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.topic("absent")
	w.create(w.source, topic, 3)
	w.fill(topic, 30, 3, 100)
	w.once(pipeline{topics: topic}, 1).mustLog(time.Second, "--create --topic "+topic+" --partitions 3")
	w.create(w.target, topic, 1)
	w.once(pipeline{topics: topic}, 1).mustLog(time.Second, "--alter --topic "+topic+" --partitions 3")
	w.once(pipeline{topics: w.topic("nowhere")}, 1).mustLog(time.Second, "has no topic")
}

func (w *world) alterTopic(c *kafkatest.Cluster, topic string, configs ...string) {
	w.t.Helper()
	var alter []kadm.AlterConfig
	for i := 0; i+1 < len(configs); i += 2 {
		alter = append(alter, kadm.AlterConfig{Name: configs[i], Value: kadm.StringPtr(configs[i+1])})
	}
	if _, err := c.Admin(w.t).AlterTopicConfigs(testContext(w.t), alter, topic); err != nil {
		w.t.Fatal(err)
	}
}
