package kafkafailover_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/progress"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

// marks reads the marks of this world's relay.
func (w *world) marks() map[position.Key]progress.Entry {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p, err := progress.Open(ctx, cluster(w.t, w.target), w.topic("progress"), -1, false)
	if err != nil {
		return nil
	}
	m, err := p.Load(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// awaitMark waits until the relay's mark for a partition has come to next.
func (p *proc) awaitMark(w *world, topic string, partition int32, next int64) {
	w.t.Helper()
	key := position.Key{RelayID: w.name, Source: position.TP{Topic: topic, Partition: partition}, Target: topic}
	eventually(w.t, time.Minute, fmt.Sprintf("the mark of %s/%d reaches %d", topic, partition, next), func() bool {
		return w.marks()[key].Mark.Next >= next
	})
}

// trim deletes records below an offset, as retention does.
func (w *world) trim(c *kafkatest.Cluster, topic string, partition int32, below int64) {
	w.t.Helper()
	var o kadm.Offsets
	o.AddOffset(topic, partition, below, -1)
	if _, err := c.Admin(w.t).DeleteRecords(testContext(w.t), o); err != nil {
		w.t.Fatal(err)
	}
}

// countOrigins counts the target's records per source record.
func (w *world) countOrigins(topic string) map[string]int {
	w.t.Helper()
	out := map[string]int{}
	for origin, values := range w.valuesByOrigin(topic) {
		out[origin] = len(values)
	}
	return out
}

// valuesByOrigin gathers the different values made of each source record.
func (w *world) valuesByOrigin(topic string) map[string]map[string]bool {
	w.t.Helper()
	out := map[string]map[string]bool{}
	w.eachTarget(topic, func(r *kgo.Record) {
		o, ok := record.LastOrigin(r, "_origin")
		if !ok {
			w.t.Fatalf("target %s/%d offset %d has no origin", topic, r.Partition, r.Offset)
		}
		key := fmt.Sprintf("%d/%d", o.Partition, o.Offset)
		if out[key] == nil {
			out[key] = map[string]bool{}
		}
		out[key][string(r.Value)] = true
	})
	return out
}

func (w *world) eachTarget(topic string, fn func(*kgo.Record)) {
	w.t.Helper()
	w.each(w.target, topic, fn)
}

func (w *world) each(on *kafkatest.Cluster, topic string, fn func(*kgo.Record)) {
	w.t.Helper()
	ctx := testContext(w.t)
	c := cluster(w.t, on)
	d, err := c.Describe(ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	starts, err := c.Offsets(ctx, kafka.LogStart, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	ends, err := c.Offsets(ctx, kafka.LastStable, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	for p := range d.Topics[topic].Partitions {
		tp := position.TP{Topic: topic, Partition: p}
		if err := c.Reader(d, true).Each(ctx, tp, starts[tp], ends[tp], func(r *kgo.Record) bool { fn(r); return true }); err != nil {
			w.t.Fatal(err)
		}
	}
}

// transact writes n records in one transaction and ends it as asked.
func (w *world) transact(topic string, partition int32, n int, end kgo.TransactionEndTry) {
	w.t.Helper()
	ctx := testContext(w.t)
	cl := w.source.Client(w.t, kgo.TransactionalID(fmt.Sprintf("%s-%d", w.name, time.Now().UnixNano())))
	if err := cl.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	for i := range n {
		r := plainRecord(topic, i, 1, 50)
		r.Partition = partition
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := cl.EndTransaction(ctx, end); err != nil {
		w.t.Fatal(err)
	}
}

// A source whose start retention has trimmed, with aborted transactions in the
// middle, and one topic that ends in one: stop_at_end goes by positions.
func TestStopAtEndOverAbortedTail(t *testing.T) {
	w := newWorld(t)
	topic := w.both("aborted", 2)
	w.fill(topic, 200, 2, 50)
	w.trim(w.source, topic, 0, 30)
	w.transact(topic, 0, 50, kgo.TryCommit)
	w.transact(topic, 0, 50, kgo.TryAbort)
	w.transact(topic, 0, 20, kgo.TryCommit)
	w.transact(topic, 1, 40, kgo.TryAbort) // partition 1 ends in an aborted transaction
	w.mustHideAborted(position.TP{Topic: topic, Partition: 1}, 120)
	relay := w.run(pipeline{topics: topic, input: stopAtEnd})
	if code := relay.wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeExact(topic)
	if got, want := ends(t, w.target, topic), int64(100-30+50+20+100); got != want {
		t.Fatalf("target holds %d records, want %d", got, want)
	}
	// A second run finds nothing to do, and ends too: the mark has passed the
	// aborted tail.
	if code := w.run(pipeline{topics: topic, input: stopAtEnd}).wait(time.Minute); code != 0 {
		t.Fatalf("second run: exit code %d", code)
	}
	w.mustBeExact(topic)
	key := position.Key{RelayID: w.name, Source: position.TP{Topic: topic, Partition: 1}, Target: topic}
	if next := w.marks()[key].Mark.Next; next != 141 {
		t.Fatalf("the mark stands at %d, want 141: behind the aborted records and their marker", next)
	}
}

// mustHideAborted checks that a raw read which begins within an aborted
// transaction does not show its records.
func (w *world) mustHideAborted(tp position.TP, offset int64) {
	w.t.Helper()
	c := cluster(w.t, w.source)
	d, err := c.Describe(testContext(w.t), tp.Topic)
	if err != nil {
		w.t.Fatal(err)
	}
	if r, err := c.Reader(d, true).At(testContext(w.t), tp, offset); err != nil || r != nil {
		w.t.Fatalf("the aborted record at %s offset %d is shown: %v, %v", tp, offset, r, err)
	}
}

// A tail that holds nothing to relay and is then trimmed is no gap.
func TestAbortedTailTrimmedIsNoGap(t *testing.T) {
	w := newWorld(t)
	topic := w.both("noGap", 1)
	w.fill(topic, 100, 1, 50)
	relay := w.run(pipeline{topics: topic})
	w.awaitTarget(topic, 100, time.Minute)
	w.transact(topic, 0, 30, kgo.TryAbort)
	relay.awaitMark(w, topic, 0, 131)
	relay.kill()
	w.trim(w.source, topic, 0, 131)
	w.fillFrom(topic, 100, 10, 1, 50)
	if code := w.run(pipeline{topics: topic, input: stopAtEnd}).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if got := ends(t, w.target, topic); got != 110 {
		t.Fatalf("target holds %d records, want 110", got)
	}
}

// Retention that has passed the position is a gap: the relay stops and names
// the lost range.
func TestGapIsNamed(t *testing.T) {
	w := newWorld(t)
	topic := w.both("gap", 1)
	w.fill(topic, 100, 1, 50)
	if code := w.run(pipeline{topics: topic, input: stopAtEnd}).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.fillFrom(topic, 100, 100, 1, 50)
	w.trim(w.source, topic, 0, 150)
	relay := w.run(pipeline{topics: topic, input: stopAtEnd})
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustLog(time.Second, "at offsets 100 to 149")
	relay.mustLog(time.Second, "kafka-console-producer.sh")
}

// Compaction leaves holes in the source, also at its end.
func TestCompactedSource(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("compact")
	w.create(w.source, topic, 1, "cleanup.policy", "compact", "segment.ms", "100", "min.cleanable.dirty.ratio", "0.01", "min.compaction.lag.ms", "0", "delete.retention.ms", "0")
	w.create(w.target, topic, 1)
	for round := range 3 {
		var rs []*kgo.Record
		for i := range 500 {
			rs = append(rs, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%50), Value: fmt.Appendf(nil, "%d-%d", round, i)})
		}
		w.produce(w.source, rs...)
		time.Sleep(150 * time.Millisecond) // let segment.ms pass
	}
	w.produce(w.source, &kgo.Record{Topic: topic, Key: []byte("last"), Value: []byte("x")})
	eventually(t, 2*time.Minute, "the source is compacted", func() bool {
		n := 0
		w.each(w.source, topic, func(*kgo.Record) { n++ })
		return n < 700
	})
	if code := w.run(pipeline{topics: topic, input: stopAtEnd}).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	// Compaction goes on, so the target may hold what the source has given up.
	if rep := w.compare(oracle.Options{Topics: same(topic)}); rep.Lost+rep.Altered+rep.Reordered+rep.Duplicated > 0 {
		t.Fatal(rep)
	}
}

// The source topic is deleted and recreated, while the relay is down and while
// it runs: it stops, and nothing of the new topic is spliced on.
func TestSourceTopicRecreated(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprintf("live=%v", live), func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("recreated", 1)
			w.fill(topic, 100, 1, 50)
			relay := w.run(pipeline{topics: topic, input: "on_fatal: exit"})
			relay.awaitMark(w, topic, 0, 100)
			if !live {
				relay.terminate(30 * time.Second)
			}
			if _, err := w.source.Admin(t).DeleteTopic(testContext(t), topic); err != nil {
				t.Fatal(err)
			}
			w.recreate(w.source, topic, 1)
			w.fill(topic, 500, 1, 50)
			if !live {
				relay = w.run(pipeline{topics: topic, input: "on_fatal: exit"})
			}
			if code := relay.wait(time.Minute); code != 1 {
				t.Fatalf("exit code %d, want 1", code)
			}
			relay.mustLog(time.Second, "deleted and recreated")
			if got := ends(t, w.target, topic); got != 100 {
				t.Fatalf("target holds %d records, want the 100 of the old topic", got)
			}
		})
	}
}

// recreate makes a topic whose deletion may still be under way.
func (w *world) recreate(c *kafkatest.Cluster, topic string, partitions int32) {
	w.t.Helper()
	adm := c.Admin(w.t)
	eventually(w.t, time.Minute, "the topic can be created again", func() bool {
		_, err := adm.CreateTopic(context.Background(), partitions, -1, nil, topic)
		return err == nil
	})
	c.AwaitTopic(w.t, topic)
}

// runCure runs the shell command that a stop printed, with Kafka's own console
// producer in place of the script of that name.
func (w *world) runCure(p *proc) {
	w.t.Helper()
	logs := p.logs()
	i := strings.LastIndex(logs, "echo "+w.name)
	if i < 0 {
		w.t.Fatal("the stop prints no command")
	}
	command, _, _ := strings.Cut(logs[i:], `"`) // the log line's closing quote
	libs, err := kafkatest.Libs()
	if err != nil {
		w.t.Fatal(err)
	}
	command = strings.Replace(command, "kafka-console-producer.sh", "java -cp '"+libs+"/*' org.apache.kafka.tools.ConsoleProducer", 1)
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// javaProduce writes lines of key=value with Kafka's own console producer.
func javaProduce(t *testing.T, c *kafkatest.Cluster, topic, lines string) {
	t.Helper()
	libs, err := kafkatest.Libs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("java", "-Dfile.encoding=UTF-8", "-cp", libs+"/*", "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", c.Brokers()[0], "--topic", topic,
		"--property", "parse.key=true", "--property", "key.separator==")
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
