package kafkafailover_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	_ "github.com/redpanda-data/connect/v4/public/components/pure"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	_ "github.com/kafka-failover/kafka-failover"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// The configuration is changed under load with -w: the old stream closes, the
// new one goes on where the target stands.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("reload", 2)
	load := w.load(topic, 2, 100, 10_000)
	file := filepath.Join(t.TempDir(), "relay.yaml")
	p := pipeline{topics: topic, processors: "- mapping: root = content()"}
	relay := w.runFile(file, w.yaml(p), "-w")
	for i := range 3 {
		before := ends(t, w.target, topic)
		w.awaitTarget(topic, before+5_000, time.Minute)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.ReplaceAll(b, []byte(fmt.Sprintf("max_in_flight: %d", 4+i)), nil)
		changed = bytes.Replace(changed, []byte("relay_id:"), fmt.Appendf(nil, "max_in_flight: %d\n    relay_id:", 5+i), 1)
		if err := os.WriteFile(file, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "the reload is logged", func() bool {
			return strings.Count(relay.logs(), "Input type kafka_failover is now active") >= i+2
		})
	}
	load.stop()
	w.awaitTarget(topic, int64(load.count()), time.Minute)
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	t.Log(w.mustBeFaithful(topic))
}

// Two pipelines in one process (streams mode) do not know each other.
func TestStreamsMode(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	var topics []string
	for _, name := range []string{"a", "b"} {
		topic := w.both(name, 2)
		w.fill(topic, 5_000, 2, 100)
		topics = append(topics, topic)
		y := w.yaml(pipeline{topics: topic})
		y = strings.ReplaceAll(y, "logger: { level: INFO }\n", "")
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(y), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	obs := filepath.Join(t.TempDir(), "o11y.yaml")
	if err := os.WriteFile(obs, fmt.Appendf(nil, "http: { address: \"127.0.0.1:%d\" }\n", ports[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.start("streams", "-o", obs, dir)
	for _, topic := range topics {
		w.awaitTarget(topic, 5_000, time.Minute)
	}
	if code := r.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeExact(topics...)
}

// The output may be a resource, found by its label.
func TestOutputResource(t *testing.T) {
	w := newWorld(t)
	topic := w.both("resource", 2)
	w.fill(topic, 5_000, 2, 100)
	top := fmt.Sprintf("output_resources:\n  - label: to_target\n    kafka_failover:\n      seed_brokers: [ %q ]\n      relay_id: %s\n      progress_topic: %s\n",
		strings.Join(w.target.Brokers(), ","), w.name, w.topic("progress"))
	w.once(pipeline{topics: topic, input: "relay: to_target", outputYAML: "resource: to_target", top: top}, 0)
	w.mustBeExact(topic)
	// Without the name it cannot be found, and the error says what to write.
	w.once(pipeline{topics: topic, outputYAML: "resource: to_target", top: top}, 1).mustLog(time.Second, "set `relay` of the input to the label")
}

// Two pairs in one stream, each with a name.
func TestTwoPairsInOneStream(t *testing.T) {
	w := newWorld(t)
	a, b := w.both("a", 1), w.both("b", 1)
	w.fill(a, 3_000, 1, 100)
	w.fill(b, 3_000, 1, 100)
	in := func(name, topic string) string {
		return fmt.Sprintf("{ kafka_failover: { relay: %s, stop_at_end: true, sources: [ { name: dc1, seed_brokers: [ %q ] } ], topics: [ %s ] } }", name, w.source.Brokers()[0], topic)
	}
	out := func(name string) string {
		return fmt.Sprintf("{ kafka_failover: { relay: %s, seed_brokers: [ %q ], relay_id: %s, progress_topic: %s } }", name, w.target.Brokers()[0], w.name+name, w.topic("progress"))
	}
	y := fmt.Sprintf(`input: { broker: { inputs: [ %s, %s ] } }
output:
  switch:
    cases:
      - { check: '@kafka_topic == "%s"', output: %s }
      - { output: %s }
`, in("x", a), in("y", b), a, out("x"), out("y"))
	if code := w.runYAML(y).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeExact(a, b)
	// Without names the two would share one relay: refused.
	unnamed := strings.NewReplacer("relay: x,", "", "relay: y,", "").Replace(y)
	relay := w.runYAML(unnamed)
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1: one of the two did not do its work", code)
	}
	relay.mustLog(time.Second, "another kafka_failover input has taken this one's place")
}

// The file of an output resource changes under load: a new output takes the
// place of the one that closes, and the input finds it.
func TestOutputResourceReload(t *testing.T) {
	w := newWorld(t)
	topic := w.both("resreload", 2)
	load := w.load(topic, 2, 100, 5_000)
	res := filepath.Join(t.TempDir(), "res.yaml")
	write := func(inFlight int) {
		y := fmt.Sprintf("output_resources:\n  - label: to_target\n    kafka_failover:\n      seed_brokers: [ %q ]\n      relay_id: %s\n      progress_topic: %s\n      max_in_flight: %d\n",
			w.target.Brokers()[0], w.name, w.topic("progress"), inFlight)
		if err := os.WriteFile(res, []byte(y), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(4)
	relay := w.runFile(filepath.Join(t.TempDir(), "relay.yaml"), w.yaml(pipeline{topics: topic, input: "relay: to_target", outputYAML: "resource: to_target"}), "-w", "-r", res)
	for i := range 2 {
		before := ends(t, w.target, topic)
		w.awaitTarget(topic, before+3_000, time.Minute)
		write(5 + i)
		relay.mustLog(30*time.Second, "Updated resource")
	}
	load.stop()
	w.awaitTarget(topic, int64(load.count()), time.Minute)
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	t.Log(w.mustBeFaithful(topic))
}

// A graceful stop under load leaves marks that say all: nothing is repeated.
func TestGracefulStopRepeatsNothing(t *testing.T) {
	w := newWorld(t)
	topic := w.both("graceful", 2)
	load := w.load(topic, 2, 100, 20_000)
	for range 3 {
		before := ends(t, w.target, topic)
		relay := w.run(pipeline{topics: topic, processors: "- mapping: root = content()", threads: 4})
		w.awaitTarget(topic, before+10_000, time.Minute)
		if code := relay.terminate(30 * time.Second); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if strings.Contains(relay.logs(), "level=error") {
			t.Fatal("a graceful stop logs an error")
		}
	}
	load.stop()
	w.once(pipeline{topics: topic}, 0)
	w.mustBeExact(topic)
}

// stream builds the relay inside this process.
func (w *world) stream(p pipeline) *service.StreamBuilder {
	w.t.Helper()
	b := service.NewStreamBuilder()
	y := w.yaml(p)
	if err := b.SetYAML(y); err != nil {
		w.t.Fatal(err)
	}
	return b
}

// After Close no goroutine is left, whether the relay ends by itself, is
// stopped, or is stopped with the target down.
func TestNoGoroutineIsLeft(t *testing.T) {
	w := newWorld(t)
	topic := w.both("leak", 2)
	w.fill(topic, 20_000, 2, 100)
	_ = ends(t, w.target, topic) // the admin client exists before goroutines are counted
	run := func(name string, p pipeline, during func()) {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			s, err := w.stream(p).Build()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			during()
			if err := s.StopWithin(5 * time.Second); err != nil {
				t.Logf("stop: %v", err)
			}
			cancel()
			<-done
			goleak.VerifyNone(t, before)
		})
	}
	run("to the end", pipeline{topics: topic, input: stopAtEnd}, func() { w.awaitTarget(topic, 20_000, time.Minute) })
	w.fillFrom(topic, 20_000, 1_000, 2, 100)
	run("stopped while running", pipeline{topics: topic}, func() { w.awaitTarget(topic, 21_000, time.Minute) })
	w.mustBeExact(topic)
	w.fillFrom(topic, 21_000, 50_000, 2, 100)
	run("stopped with the target down", pipeline{topics: topic}, func() {
		w.awaitTarget(topic, 21_001, time.Minute)
		w.target.Kill(0)
	})
	if err := w.target.Restart(0); err != nil {
		t.Fatal(err)
	}
	w.once(pipeline{topics: topic}, 0)
	w.mustBeFaithful(topic)
}

// ConnectionTest builds components that are never run nor closed; the stream
// that is built afterwards is not disturbed by them.
func TestConnectionTestBeforeRun(t *testing.T) {
	w := newWorld(t)
	topic := w.both("conntest", 2)
	w.fill(topic, 2_000, 2, 100)
	s, err := w.stream(pipeline{topics: topic, input: stopAtEnd}).Build()
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.ConnectionTest(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 2 {
		t.Fatalf("%d results, want one each of input and output", len(results))
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if err := s.Run(testContext(t)); err != nil {
		t.Fatal(err)
	}
	w.mustBeExact(topic)

	s, err = w.stream(pipeline{topics: w.topic("nowhere")}).Build()
	if err != nil {
		t.Fatal(err)
	}
	results, err = s.ConnectionTest(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Err == nil || !strings.Contains(results[0].Err.Error(), "has no topic") {
		t.Fatalf("a missing topic gives %v", results[0].Err)
	}
}

// Fed by another input, the output is an ordinary Kafka output.
func TestPlainOutput(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("plain")
	w.create(w.target, topic, 3)
	out := fmt.Sprintf("kafka_failover:\n    seed_brokers: [ %q ]\n    topic: '${! @topic }'\n    key: '${! json(\"k\") }'\n    partition: '${! json(\"p\") }'\n    header_metadata: { include_prefixes: [ h_ ] }",
		w.target.Brokers()[0])
	in := "generate: { count: 30, interval: '', mapping: 'root = { \"k\": \"key%v\".format(counter()), \"p\": counter() % 3 }' }"
	relay := w.run(pipeline{inputYAML: in, outputYAML: out, processors: fmt.Sprintf("- mapping: |\n    root = this\n    meta topic = %q\n    meta h_one = \"1\"", topic)})
	if code := relay.wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	n := map[int32]int{}
	w.eachTarget(topic, func(r *kgo.Record) {
		n[r.Partition]++
		if !strings.HasPrefix(string(r.Key), "key") || len(r.Headers) != 1 || r.Headers[0].Key != "h_one" {
			t.Fatalf("key %q headers %v", r.Key, r.Headers)
		}
	})
	if n[0] != 10 || n[1] != 10 || n[2] != 10 {
		t.Fatalf("records per partition: %v", n)
	}
	w.run(pipeline{inputYAML: in, outputYAML: fmt.Sprintf("kafka_failover: { seed_brokers: [ %q ] }", w.target.Brokers()[0])}).mustLog(10*time.Second, "has no topic to write to")
}

// A relay from a cluster into itself is refused, and a record that comes back
// on a loop A to B to A is dropped.
func TestLoops(t *testing.T) {
	w := newWorld(t)
	topic := w.both("loop", 1)
	itself := *w
	itself.target = w.source
	itself.once(pipeline{topics: topic + ":" + w.topic("copy")}, 1).mustLog(time.Second, "are the same cluster")

	w.fill(topic, 1_000, 1, 100)
	back := *w
	back.source, back.target, back.name = w.target, w.source, w.name+"back"
	ab := w.run(pipeline{topics: topic})
	w.awaitTarget(topic, 1_000, time.Minute)
	// B to A under its own id: marks of A's side do not exist yet, so begin at
	// the start; what came from A comes back once.
	ba := back.run(pipeline{topics: topic, input: "resume: start"})
	eventually(t, time.Minute, "A has what B had", func() bool { return ends(t, w.source, topic) == 2_000 })
	ab.awaitMark(w, topic, 0, 2_000) // and A to B drops it
	w.fillFrom(topic, 1_000, 500, 1, 100)
	eventually(t, time.Minute, "fresh records go round once", func() bool {
		return ends(t, w.target, topic) >= 1_500 && ends(t, w.source, topic) >= 3_000
	})
	ab.awaitMark(w, topic, 0, 3_000)
	if a, b := ends(t, w.source, topic), ends(t, w.target, topic); a != 3_000 || b != 1_500 {
		t.Fatalf("A holds %d and B %d records, want 3000 and 1500: a loop", a, b)
	}
	resp, err := http.Get(ab.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(resp.Body)
	if !strings.Contains(body.String(), `kafka_relay_messages_filtered_total{filter="loop"`) {
		t.Fatal("dropped loops are not counted")
	}
	ab.terminate(30 * time.Second)
	ba.terminate(30 * time.Second)
}

// Routes: another name, one partition, by key.
func TestRoutes(t *testing.T) {
	w := newWorld(t)
	src := w.topic("r")
	w.create(w.source, src, 3)
	w.fill(src, 3_000, 3, 100)
	for _, c := range []struct {
		name, spec string
		partitions int32
		where      func(*kgo.Record) int32
	}{
		{"renamed", "%s:%s", 3, nil},
		{"fixed", "%s:%s:1", 2, func(*kgo.Record) int32 { return 1 }},
		{"auto", "%s:%s:auto", 5, murmur(5)},
	} {
		t.Run(c.name, func(t *testing.T) {
			one := *w
			one.t, one.name = t, w.name+c.name
			dst := one.topic("t")
			one.create(w.target, dst, c.partitions)
			p := pipeline{topics: fmt.Sprintf(c.spec, src, dst)}
			relay := one.run(p)
			one.awaitTarget(dst, 500, time.Minute)
			relay.kill()
			one.once(p, 0)
			rep := one.compare(oracle.Options{Topics: map[string]string{src: dst}, Partition: c.where})
			if !rep.Faithful() {
				t.Fatal(rep)
			}
		})
	}
}

// murmur is the partition of a key by a client of its own.
func murmur(n int) func(*kgo.Record) int32 {
	p := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	return func(r *kgo.Record) int32 { return int32(p.Partition(r, n)) }
}
