package kafkafailover_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// odd records: every difference that Kafka knows and a relay may blur.
func oddRecords(topic string) []*kgo.Record {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	at := time.UnixMilli
	h := func(kv ...any) (out []kgo.RecordHeader) {
		for i := 0; i < len(kv); i += 2 {
			var v []byte
			if kv[i+1] != nil {
				v = []byte(kv[i+1].(string))
			}
			out = append(out, kgo.RecordHeader{Key: kv[i].(string), Value: v})
		}
		return out
	}
	return []*kgo.Record{
		{Topic: topic, Key: []byte("k"), Value: []byte("v"), Timestamp: at(1_700_000_000_123)},
		{Topic: topic, Key: nil, Value: []byte("no key"), Timestamp: at(1_700_000_000_124)},
		{Topic: topic, Key: []byte{}, Value: []byte("empty key"), Timestamp: at(1_700_000_000_125)},
		{Topic: topic, Key: []byte("tombstone"), Value: nil, Timestamp: at(1_700_000_000_126)},
		{Topic: topic, Key: []byte("empty value"), Value: []byte{}, Timestamp: at(1_700_000_000_127)},
		{Topic: topic, Key: nil, Value: nil, Timestamp: at(1_700_000_000_128)},
		{Topic: topic, Key: all, Value: all, Timestamp: at(1)},
		{Topic: topic, Key: []byte("h"), Value: []byte("v"), Headers: h("a", "1", "b", "2", "a", "3", "a", "1"), Timestamp: at(1_700_000_000_129)},
		{Topic: topic, Key: []byte("h"), Value: []byte("v"), Headers: h("nil", nil, "empty", "", "nil", "", "", "no name"), Timestamp: at(1_700_000_000_130)},
		{Topic: topic, Key: []byte("h"), Value: []byte("v"), Headers: h("kafka_key", "not the key", "kafka_topic", "x", "bytes", string(all)), Timestamp: at(1_700_000_000_131)},
		{Topic: topic, Key: []byte("h"), Value: []byte("v"), Headers: h("_origin", "other/relay/0/1/0", "_origin", "junk"), Timestamp: at(1_700_000_000_132)},
		{Topic: topic, Key: []byte("old"), Value: []byte("v"), Timestamp: at(0)},
	}
}

// Every record reaches the target as it is, with any metadata setting.
func TestFidelity(t *testing.T) {
	for _, metadata := range []string{"standard", "none"} {
		for _, processors := range []string{"", "- mapping: root = content()", "- mapping: |\n    meta extra = \"1\""} {
			t.Run(fmt.Sprintf("%s %q", metadata, processors), func(t *testing.T) {
				w := newWorld(t)
				topic := w.both("odd", 1, "retention.ms", "-1")
				w.produce(w.source, oddRecords(topic)...)
				w.once(pipeline{topics: topic, input: "metadata: " + metadata, processors: processors}, 0)
				w.mustBeExact(topic)
			})
		}
	}
}

// The largest record that max_message_bytes lets through, less the header, and
// one that is larger.
func TestLargestRecord(t *testing.T) {
	w := newWorld(t)
	topic := w.both("large", 1, "max.message.bytes", "2000000")
	cl := w.source.Client(t, kgo.ProducerBatchMaxBytes(1_500_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	big := &kgo.Record{Topic: topic, Value: randomBytes(1<<20 - 250)}
	if err := cl.ProduceSync(testContext(t), big, plainRecord(topic, 1, 1, 100)).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.once(pipeline{topics: topic}, 0)
	w.mustBeExact(topic)
	// Larger than the limit: seen before it is handed over, or by the client.
	for i, size := range []int{1<<20 - 20, 1<<20 + 20} {
		if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: topic, Value: randomBytes(size)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		relay := w.once(pipeline{topics: topic}, 1)
		relay.mustLog(time.Second, fmt.Sprintf("source record %s/0 offset %d", topic, 2+i))
		w.once(pipeline{topics: topic, output: "on_error: drop"}, 0)
	}
	w.once(pipeline{topics: topic, output: "max_message_bytes: 2MiB"}, 0)
	if got := ends(t, w.target, topic); got != 2 {
		t.Fatalf("target holds %d records, want 2", got)
	}
}

// What the pipeline changes reaches the target, and nothing else changes.
func TestChangesReachTheTarget(t *testing.T) {
	w := newWorld(t)
	topic := w.both("changes", 1, "retention.ms", "-1") // its record is from 2023
	w.produce(w.source, &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("v"), Timestamp: time.UnixMilli(1_700_000_000_000), Headers: []kgo.RecordHeader{
		{Key: "keep", Value: nil}, {Key: "change", Value: []byte("1")}, {Key: "change", Value: []byte("2")}, {Key: "delete", Value: []byte("3")}, {Key: "keep", Value: []byte("4")},
	}})
	w.once(pipeline{topics: topic, processors: `- mapping: |
    root = content().uppercase()
    meta kafka_key = "new"
    meta change = "changed"
    meta delete = deleted()
    meta added = "1"
    meta h_added = "2"`, output: "header_metadata: { include_prefixes: [ h_ ] }\ntimestamp_header: _t"}, 0)
	var got *kgo.Record
	w.eachTarget(topic, func(r *kgo.Record) { got = r })
	if got == nil {
		t.Fatal("nothing arrived")
	}
	origin := fmt.Sprintf("%s/%s/0/0/-1", w.name, topic)
	want := []kgo.RecordHeader{
		{Key: "keep", Value: nil}, {Key: "change", Value: []byte("changed")}, {Key: "keep", Value: []byte("4")},
		{Key: "h_added", Value: []byte("2")}, {Key: "_t", Value: []byte{0x17, 0x97, 0x9c, 0xfe, 0x36, 0x2a, 0x00, 0x00}},
		{Key: "_origin", Value: []byte(origin)},
	}
	if diff := cmp.Diff(want, got.Headers); diff != "" {
		t.Fatal(diff)
	}
	if string(got.Key) != "new" || string(got.Value) != "V" {
		t.Fatalf("key %q value %q", got.Key, got.Value)
	}
}

// A chain A to B to C leaves one origin header each and compares equal.
func TestChain(t *testing.T) {
	w := newWorld(t)
	topic := w.both("chain", 1)
	w.fill(topic, 500, 1, 100)
	w.once(pipeline{topics: topic}, 0)
	second := *w
	second.source, second.target, second.name = w.target, w.source, w.name+"c"
	third := w.topic("third")
	w.create(w.source, third, 1)
	second.once(pipeline{topics: topic + ":" + third}, 0)
	rep := second.compare(oracle.Options{Topics: map[string]string{topic: third}})
	if !rep.Exact() {
		t.Fatal(rep)
	}
}
