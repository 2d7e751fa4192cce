package kafkafailover_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

const (
	deadRecords    = 20_000
	deadPartitions = 2
	deadRefused    = 7_000 // of partition 0: the broker refuses it
)

// isDead tells which of the records below are not to reach the target topic.
func isDead(r *kgo.Record) bool {
	return r.Offset%97 == 5 || (r.Partition == 0 && r.Offset == deadRefused)
}

// spoiled are records of which one in 97 is no JSON, and one has a timestamp in
// the future.
func spoiled(topic string, i int) *kgo.Record {
	r := plainRecord(topic, i, deadPartitions, 100)
	r.Partition, r.Value = int32(i%deadPartitions), fmt.Appendf(nil, `{"n":%d}`, i)
	switch offset := i / deadPartitions; {
	case offset%97 == 5:
		r.Value = fmt.Appendf(nil, "no JSON %d", i)
	case r.Partition == 0 && offset == deadRefused:
		r.Timestamp = time.Now().Add(2 * time.Hour)
	}
	return r
}

// What cannot be relayed goes to the dead letter topic, whole, in order and with
// its reason, and nothing waits for it: at least once, exactly once, and when the
// relay is killed in between.
func TestDeadLetters(t *testing.T) {
	t.Parallel() // topics of its own
	for _, delivery := range []string{"at_least_once", "exactly_once"} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, killed %v", delivery, killed), func(t *testing.T) {
				r := seeded(t)
				w := newWorld(t)
				topic, dead := w.topic("alive"), w.topic("dead")
				w.create(w.source, topic, deadPartitions, "message.timestamp.after.max.ms", "9223372036854775807")
				w.create(w.target, topic, deadPartitions, "message.timestamp.after.max.ms", "3600000")
				w.create(w.target, dead, deadPartitions)
				w.fillOf(deadRecords, func(i int) *kgo.Record { return spoiled(topic, i) })
				p := pipeline{topics: topic, threads: 4, processors: "- label: parse\n  mapping: root = this",
					input: "batch_max_records: 500", output: "delivery: " + delivery + "\non_error: dead_letter\ndead_letter_topic: " + dead}
				if killed {
					for range 3 {
						relay := w.run(p)
						from := ends(t, w.target, topic)
						eventually(t, time.Minute, "records arrive", func() bool { return ends(t, w.target, topic) > from })
						time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond) // a random moment
						relay.kill()
					}
				}
				w.once(p, 0)
				rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
					if isDead(r) {
						return nil
					}
					return r
				}})
				exact := delivery == "exactly_once"
				if !rep.Faithful() || (exact && !rep.Exact()) || rep.Target == 0 {
					t.Fatal(rep)
				}
				w.mustHoldLetters(topic, dead, exact)
			})
		}
	}
}

// mustHoldLetters compares the dead letter topic with what should have died. Going
// by the last copies, which are the only ones if each is to be there once, the
// letters of a source partition stand in its order.
func (w *world) mustHoldLetters(topic, dead string, once bool) {
	w.t.Helper()
	want := map[[2]int64]bool{}
	for i := range deadRecords {
		r := spoiled(topic, i)
		if r.Offset = int64(i / deadPartitions); isDead(r) {
			want[[2]int64{int64(r.Partition), r.Offset}] = true
		}
	}
	last, copies := map[[2]int64]int64{}, map[[2]int64]int{}
	w.eachTarget(dead, func(r *kgo.Record) {
		origin, ok := record.LastOrigin(r, "_origin")
		key := [2]int64{int64(origin.Partition), origin.Offset}
		if !ok || origin.Topic != topic || !want[key] {
			w.t.Fatalf("letter at %d/%d is of nothing that died: %+v", r.Partition, r.Offset, origin)
		}
		src := spoiled(topic, int(origin.Offset)*deadPartitions+int(origin.Partition))
		if string(r.Value) != string(src.Value) || string(r.Key) != string(src.Key) || r.Partition != origin.Partition {
			w.t.Fatalf("letter of %+v in partition %d holds %q: %q", origin, r.Partition, r.Key, r.Value)
		}
		errText, component := header(r, "_dead_letter_error"), header(r, "_dead_letter_component")
		wantErr, wantIn := "failed to parse", "parse"
		if origin.Partition == 0 && origin.Offset == deadRefused {
			wantErr, wantIn = "INVALID_TIMESTAMP", "output"
		}
		if !strings.Contains(errText, wantErr) && !strings.Contains(errText, "invalid character") || !strings.Contains(component, wantIn) {
			w.t.Fatalf("letter of %+v says %q failed in %q", origin, errText, component)
		}
		if ms, err := strconv.ParseInt(header(r, "_dead_letter_timestamp_ms"), 10, 64); err != nil || (origin.Offset != deadRefused && ms != src.Timestamp.UnixMilli()) {
			w.t.Fatalf("letter of %+v has the time %d, %v", origin, ms, err)
		}
		last[key] = r.Offset
		copies[key]++
	})
	for key := range want {
		if n := copies[key]; n == 0 || (once && n > 1) {
			w.t.Errorf("source partition %d offset %d: %d letters", key[0], key[1], n)
		}
	}
	for p := range int64(deadPartitions) {
		at := int64(-1)
		for offset := range int64(deadRecords / deadPartitions) {
			if n, ok := last[[2]int64{p, offset}]; ok {
				if n < at {
					w.t.Fatalf("the letter of source partition %d offset %d stands at %d, one before it at %d", p, offset, n, at)
				}
				at = n
			}
		}
	}
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// A letter whose value was too large says so, and the relay goes on; a filter
// that fails sends letters too.
func TestDeadLettersLargeAndFiltered(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic, dead := w.topic("large"), w.topic("dead")
	w.create(w.source, topic, 1, "max.message.bytes", "10000000")
	w.create(w.target, topic, 1, "max.message.bytes", "300000")
	w.create(w.target, dead, 1)
	w.fillWithBad(topic, 3_000, 1_500, func(r *kgo.Record) { r.Value = randomBytes(400_000) })
	w.produce(w.source, &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("no JSON")})
	w.once(pipeline{topics: topic, processors: "- kafka_failover_filter: { name: f, check: 'content().length() > 1000 || metadata(\"n\").or(\"\") != \"\" || this.x == 1' }",
		output: "on_error: dead_letter\ndead_letter_topic: " + dead}, 0).mustLog(time.Second, "on_error: dead_letter wrote a record to "+dead)
	got := map[string]bool{} // the refusal has the relay read some records again
	w.eachTarget(dead, func(r *kgo.Record) {
		o, _ := record.LastOrigin(r, "_origin")
		got[fmt.Sprintf("%d omitted %q value %d", o.Offset, header(r, "_dead_letter_omitted_bytes"), len(r.Value))] = true
	})
	want := map[string]bool{`1500 omitted "400000" value 0`: true, `3000 omitted "" value 7`: true}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
	if n := len(w.countOrigins(topic)); n != 2_999 {
		t.Fatalf("target holds %d records", n)
	}
}

// A dead letter topic that is not there, or cannot be one, is said at start.
func TestDeadLetterTopicRefused(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("refused", 1)
	w.fill(topic, 10, 1, 100)
	for dead, says := range map[string]string{
		w.topic("nowhere"): "does not exist on the target; create it: kafka-topics.sh",
		topic:              "is also the target of a route",
	} {
		p := pipeline{topics: topic, output: "on_error: dead_letter\ndead_letter_topic: " + dead}
		w.once(p, 1).mustLog(time.Second, says)
		if out, errs, code := command(t, "check", w.file(w.yaml(p))); code != 1 || !strings.Contains(out+errs, says) {
			t.Errorf("check: exit code %d: %s%s", code, out, errs)
		}
	}
}
