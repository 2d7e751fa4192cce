package kafkafailover_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// refusal is a record that the target's broker refuses, and with it the whole
// produce batch it sits in, while later batches are on their way.
type refusal struct {
	name   string
	target []string // configs of the target topic
	bad    func(*kgo.Record)
	says   string
}

var refusals = []refusal{
	{"topic limit", []string{"max.message.bytes", "300000"}, func(r *kgo.Record) { r.Value = randomBytes(400_000) }, "MESSAGE_TOO_LARGE"},
	{"future timestamp", []string{"message.timestamp.after.max.ms", "3600000"}, func(r *kgo.Record) { r.Timestamp = time.Now().Add(2 * time.Hour) }, "INVALID_TIMESTAMP"},
	{"null key into a compacted topic", []string{"cleanup.policy", "compact"}, func(r *kgo.Record) { r.Key = nil }, "INVALID_RECORD"},
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// fillWithBad writes n records into one partition, the one at offset bad being
// what the target refuses.
func (w *world) fillWithBad(topic string, n, bad int, spoil func(*kgo.Record)) {
	w.t.Helper()
	cl := w.source.Client(w.t, kgo.MaxBufferedRecords(200_000), kgo.ProducerLinger(5*time.Millisecond))
	for i := range n {
		r := plainRecord(topic, i, 1, 200)
		if i == bad {
			spoil(r)
		}
		cl.Produce(context.Background(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				w.t.Errorf("filling: %v", err)
			}
		})
	}
	if err := cl.Flush(testContext(w.t)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) refusingTopic(f refusal) string {
	w.t.Helper()
	topic := w.topic("refused")
	w.create(w.source, topic, 1, "message.timestamp.after.max.ms", "9223372036854775807")
	w.create(w.target, topic, 1, f.target...)
	return topic
}

// A batch is refused at full speed with later ones in flight. The relay finds
// the record, stops and names it; the target holds exactly what is before it,
// as the last copies go.
func TestRefusedAtFullSpeed(t *testing.T) {
	t.Parallel() // topics of its own
	for _, f := range refusals {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.refusingTopic(f)
			n, bad := count(120_000, 600_000), 70_001
			w.fillWithBad(topic, n, bad, f.bad)
			relay := w.run(pipeline{topics: topic, input: "on_fatal: exit\nbatch_max_records: 2000", threads: 4, processors: "- mapping: root = content()"})
			if code := relay.wait(2 * time.Minute); code != 1 {
				t.Fatalf("exit code %d, want 1", code)
			}
			relay.mustLog(time.Second, fmt.Sprintf("source record %s/0 offset %d", topic, bad))
			relay.mustLog(time.Second, f.says)
			w.mustHoldPrefix(topic, bad)
			if lines := strings.Count(relay.logs(), "\n"); lines > 120 {
				t.Errorf("%d log lines for one refusal", lines)
			}
		})
	}
}

// mustHoldPrefix checks that everything before an offset is in the target, in
// order by last copies, and that the offset is not.
func (w *world) mustHoldPrefix(topic string, bad int) {
	w.t.Helper()
	rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
		if r.Offset >= int64(bad) {
			return nil
		}
		return r
	}})
	// Batches handed over before the refusal was known stand behind the hole;
	// a restart writes them again.
	rep.Foreign = 0
	if !rep.Faithful() {
		w.t.Fatal(rep)
	}
	w.eachTarget(topic, func(r *kgo.Record) {
		if o := r.Headers[len(r.Headers)-1]; strings.HasSuffix(string(o.Value), fmt.Sprintf("/%d/%d", bad, bad-1)) {
			w.t.Fatalf("the refused record stands at target offset %d", r.Offset)
		}
	})
}

// The same, and the relay is killed while it deals with it; what refuses is
// then mended, and everything arrives.
func TestRefusedAndKilled(t *testing.T) {
	r := seeded(t)
	for round := range count(2, 9) {
		f := refusals[round%len(refusals)]
		w := newWorld(t)
		topic := w.refusingTopic(f)
		w.fillWithBad(topic, 100_000, 40_000+r.IntN(20_000), f.bad)
		relay := w.run(pipeline{topics: topic, input: "batch_max_records: 2000", threads: 4, processors: "- mapping: root = content()"})
		relay.mustLog(time.Minute, f.says)
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond) // a random moment
		relay.kill()
		w.alterTopic(w.target, topic, "max.message.bytes", "1048588", "message.timestamp.after.max.ms", "9223372036854775807", "cleanup.policy", "delete")
		w.once(pipeline{topics: topic}, 0)
		t.Log(f.name, w.mustBeFaithful(topic))
	}
}

// With on_error: drop only the record that is refused is left out.
func TestRefusedDropped(t *testing.T) {
	f := refusals[1]
	w := newWorld(t)
	topic := w.refusingTopic(f)
	w.fillWithBad(topic, 50_000, 20_000, f.bad)
	relay := w.once(pipeline{topics: topic, output: "on_error: drop", input: "batch_max_records: 2000"}, 0)
	relay.mustLog(time.Second, "left a record out")
	rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
		if r.Offset == 20_000 {
			return nil
		}
		return r
	}})
	if !rep.Faithful() {
		t.Fatal(rep)
	}
}

// A message that a processor failed on stops the relay by default; nothing of
// it or behind it is relayed.
func TestFailedProcessorStops(t *testing.T) {
	w := newWorld(t)
	topic := w.both("failed", 1)
	w.fillWithBad(topic, 5_000, 3_210, func(r *kgo.Record) { r.Value = []byte("not json") })
	p := pipeline{topics: topic, input: "batch_max_records: 500", threads: 4, processors: "- mapping: |\n    root = this\n    root.n = this.n.number()"}
	relay := w.once(p, 1)
	relay.mustLog(time.Second, "offset 3210: a processor failed on it")
	if got := ends(t, w.target, topic); got != 3_210 {
		t.Fatalf("target holds %d records, want the 3210 before the failed one", got)
	}
	p.output = "on_error: drop"
	w.once(p, 0)
	if got := len(w.countOrigins(topic)); got != 4_999 {
		t.Fatalf("target holds %d records, want all but the failed one", got)
	}
}

// Something other than the output refuses messages, and the others of their
// batch are written: a stop with a name. What was refused did not count as
// filtered, and is there once the cause is mended.
func TestForeignRefusalStops(t *testing.T) {
	w := newWorld(t)
	topic := w.both("reject", 1)
	w.fillWithBad(topic, 1_000, 500, func(r *kgo.Record) { r.Value = []byte("not json") })
	out := fmt.Sprintf("reject_errored: { kafka_failover: { seed_brokers: [ %q ], relay_id: %s, progress_topic: %s } }", w.target.Brokers()[0], w.name, w.topic("progress"))
	relay := w.once(pipeline{topics: topic, processors: "- mapping: root = this", outputYAML: out}, 1)
	relay.mustLog(time.Second, "refused by something other than the kafka_failover output")
	w.once(pipeline{topics: topic}, 0)
	t.Log(w.mustBeFaithful(topic))
}

// Components between input and output that break order, or acknowledge early,
// are refused with their name; and once they are gone nothing is missing.
func TestOrderBreakersAreRefused(t *testing.T) {
	in := func(w *world, topic string) string {
		return fmt.Sprintf("broker: { inputs: [ { kafka_failover: { stop_at_end: true, sources: [ { name: dc1, seed_brokers: [ %q ] } ], topics: [ %s ] } } ] }", w.source.Brokers()[0], topic)
	}
	for name, c := range map[string]struct {
		p    pipeline
		says string
	}{
		"buffer":          {pipeline{top: "buffer: { memory: {} }"}, "remove the buffer"},
		"split":           {pipeline{processors: "- split: { size: 10 }"}, "twice"},
		"group_by_value":  {pipeline{processors: "- group_by_value: { value: '${! json(\"n\") % 2 }' }"}, "twice"},
		"metadata":        {pipeline{processors: "- mapping: meta = deleted()"}, "without its origin"},
		"output batching": {pipeline{outputYAML: "broker"}, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("breaker", 1)
			w.fill(topic, 1_000, 1, 100)
			p := c.p
			p.topics = topic
			if p.outputYAML == "broker" {
				p.inputYAML = in(w, topic)
				p.outputYAML = fmt.Sprintf("broker: { batching: { count: 300 }, outputs: [ { kafka_failover: { seed_brokers: [ %q ], relay_id: %s, progress_topic: %s } } ] }", w.target.Brokers()[0], w.name, w.topic("progress"))
				c.says = "messages of several batches|twice|after it had been acknowledged"
			}
			p.input = stopAtEnd
			relay := w.run(p)
			code := relay.wait(time.Minute)
			if code == 0 { // what came through came through in order
				w.mustBeFaithful(topic)
				return
			}
			if says := regexp.MustCompile(c.says); !says.MatchString(relay.logs()) {
				t.Fatalf("the log does not say %q", c.says)
			}
			w.once(pipeline{topics: topic}, 0)
			t.Log(w.mustBeFaithful(topic))
		})
	}
}

// A buffer that the binary cannot see in the configuration is met by the first
// batch that comes late, and the marks are taken back: nothing is lost.
func TestHiddenBufferLosesNothing(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("hidden", 1)
	w.fill(topic, 1_000, 1, 100)
	file := filepath.Join(t.TempDir(), "stream.yaml")
	y := w.yaml(pipeline{topics: topic, top: "buffer: { memory: { batch_policy: { enabled: true, count: 100000, period: 4s } } }"})
	y = strings.ReplaceAll(y, "logger: { level: INFO }\n", "")
	if err := os.WriteFile(file, []byte(y), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.start("streams", "--no-api", file)
	r.mustLog(time.Minute, "acknowledged too early")
	eventually(t, 30*time.Second, "the mark is taken back", func() bool {
		for _, e := range w.marks() {
			return e.Mark.Next == 0
		}
		return false
	})
	r.kill()
	w.once(pipeline{topics: topic}, 0)
	t.Log(w.mustBeFaithful(topic))
}

// A piece of a split record fails: the pieces before it do not stand for the
// whole record, and all of them arrive once the cause is mended.
func TestFailedPieceTakesItsRecordAlong(t *testing.T) {
	w := newWorld(t)
	topic := w.both("pieces", 1)
	var rs []*kgo.Record
	for i := range 100 {
		rs = append(rs, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d-a\n%d-b\n%d-c", i, i, i)})
	}
	w.produce(w.source, rs...)
	split := "- unarchive: { format: lines }\n"
	w.once(pipeline{topics: topic, processors: split + "- mapping: 'root = if content() == \"50-b\" { throw(\"bad\") } else { content() }'"}, 1).mustLog(time.Second, "offset 50: a processor failed on it")
	w.once(pipeline{topics: topic, processors: split}, 0)
	pieces := w.valuesByOrigin(topic)
	for i := range 100 {
		if got := len(pieces[fmt.Sprintf("0/%d", i)]); got != 3 {
			t.Fatalf("record %d has %d of 3 pieces", i, got)
		}
	}
}
