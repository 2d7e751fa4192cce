package kafkafailover_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest/netfault"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// exactly makes a pipeline commit records and positions together.
func exactly(p pipeline) pipeline {
	p.output += "\ndelivery: exactly_once"
	return p
}

// exactWorld is a world with a target of three nodes that needs two in-sync
// replicas.
func exactWorld(t *testing.T, three *kafkatest.Cluster) *world {
	w := newWorld(t)
	w.target = three
	return w
}

// threeNodes is a cluster of three nodes that needs two in-sync replicas, shared
// by the tests of exactly_once.
func threeNodes(t testing.TB) *kafkatest.Cluster {
	t.Helper()
	return shareCluster(t, "three", kafkatest.Options{Nodes: 3, Front: true, Props: map[string]string{
		"min.insync.replicas": "2", "transaction.state.log.min.isr": "2",
	}})
}

// transaction is the state of the relay's transaction, as its coordinator has
// it.
func (w *world) transaction() string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	d, err := w.target.Admin(w.t).DescribeTransactions(ctx, w.name+".0")
	if err != nil {
		return err.Error()
	}
	return d[w.name+".0"].State
}

// stopInTransaction pauses the relay while a transaction of it is open.
func (w *world) stopInTransaction(relay *proc) {
	w.t.Helper()
	eventually(w.t, time.Minute, "the relay is paused with its transaction open", func() bool {
		relay.signal(syscall.SIGSTOP)
		if w.transaction() == "Ongoing" {
			return true
		}
		relay.signal(syscall.SIGCONT)
		return false
	})
}

// aborted are the records of partitions of a topic that only readers of
// everything see: those of transactions that were given up.
func (w *world) aborted(topic string) map[int32][]int64 {
	w.t.Helper()
	c, ctx := cluster(w.t, w.target), testContext(w.t)
	d, err := c.Describe(ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	ends, err := c.Offsets(ctx, kafka.LastStable, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[int32][]int64{}
	for tp, end := range ends {
		committed := map[int64]bool{}
		collect := func(only bool, fn func(int64)) {
			if err := c.Reader(d, only).Each(ctx, tp, 0, end, func(r *kgo.Record) bool { fn(r.Offset); return true }); err != nil {
				w.t.Fatal(err)
			}
		}
		collect(true, func(o int64) { committed[o] = true })
		collect(false, func(o int64) {
			if !committed[o] {
				out[tp.Partition] = append(out[tp.Partition], o)
			}
		})
	}
	return out
}

// mustHaveAborted makes sure that a fault has hit an open transaction.
func (w *world) mustHaveAborted(topic string) {
	w.t.Helper()
	if len(w.aborted(topic)) == 0 {
		w.t.Fatal("no record of an aborted transaction is in the target: the fault has hit nothing")
	}
}

// finish relays what is left and compares, as a reader of committed records.
func (w *world) finish(p pipeline, load *load, topic string) {
	w.t.Helper()
	load.stop()
	p.input += "\n" + stopAtEnd
	if code := w.run(p).wait(5 * time.Minute); code != 0 {
		w.t.Fatalf("exit code %d", code)
	}
	rep := w.compare(oracle.Options{Topics: same(topic)})
	w.t.Log(rep)
	if !rep.Exact() || rep.Source != load.count() {
		w.t.Fatalf("%v, %d were written", rep, load.count())
	}
}

// Records and marks are committed together, and a second run has nothing to do.
func TestExactlyOnce(t *testing.T) {
	w := newWorld(t)
	topic := w.both("exact", 4)
	w.fill(topic, count(200_000, 1_000_000), 4, 100)
	p := exactly(pipeline{topics: topic, processors: "- mapping: root = content()", threads: 4})
	w.once(p, 0)
	w.mustBeExact(topic)
	before := ends(t, w.target, topic)
	w.once(p, 0)
	if after := ends(t, w.target, topic); after != before {
		t.Fatalf("a second run wrote %d offsets", after-before)
	}
}

// The relay killed with -9 at random moments under load, on a target of three
// nodes: a reader of committed records sees each once.
func TestExactlyOnceOnThreeNodes(t *testing.T) {
	three := threeNodes(t)
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		r := seeded(t)
		w := exactWorld(t, three)
		topic := w.both("kill", 4)
		load := w.load(topic, 4, 200, 10_000)
		p := exactly(pipeline{topics: topic, processors: "- mapping: root = content()", threads: 4, input: "batch_max_records: 500"})
		open := 0
		for range count(4, 100) {
			w.killWhileRelaying(p, topic, r)
			if w.transaction() == "Ongoing" { // nobody is left to end it
				open++
			}
		}
		w.finish(p, load, topic)
		w.mustHaveAborted(topic)
		if t.Logf("%d kills, %d of them with the transaction open", count(4, 100), open); open < count(1, 40) {
			t.Fatal("too few of the kills came within a transaction")
		}
	})
	t.Run("killed with the followers stopped", func(t *testing.T) {
		w := exactWorld(t, three)
		topic := w.both("followers", 1)
		load := w.load(topic, 1, 200, 5_000)
		p := exactly(pipeline{topics: topic})
		long := exactly(pipeline{topics: topic, output: "commit_interval: 5s"}) // open for long
		t.Cleanup(func() {
			for i := range 3 {
				three.Resume(i)
			}
		})
		var marks []int64
		for range count(1, 5) {
			relay := w.run(long)
			before := ends(t, w.target, topic)
			w.awaitTarget(topic, max(0, before)+2_000, time.Minute)
			eventually(t, time.Minute, "a transaction is open", func() bool { return w.transaction() == "Ongoing" })
			leader := w.leader(topic)
			for i := range 3 {
				if i != leader {
					w.target.Pause(i)
				}
			}
			time.Sleep(300 * time.Millisecond) // what is under way may still be taken
			mark := w.highWatermarkAt(topic, leader)
			time.Sleep(500 * time.Millisecond) // the leader appends
			if now := w.highWatermarkAt(topic, leader); now != mark {
				t.Fatalf("the high watermark went from %d to %d without followers", mark, now)
			}
			relay.kill()
			for i := range 3 {
				w.target.Resume(i)
			}
			w.awaitInSync(topic, 3)
			marks = append(marks, mark)
		}
		w.finish(p, load, topic)
		aborted := w.aborted(topic)[0]
		for _, mark := range marks {
			if !slices.Contains(aborted, mark) {
				t.Fatalf("what was appended at the high watermark %d is not aborted", mark)
			}
		}
	})
	t.Run("killed with its bytes on their way", func(t *testing.T) {
		t.Parallel()
		proxies := netfault.Framed(t, three)
		type fault struct {
			api  uint16
			held time.Duration
		}
		faults := []fault{
			{netfault.Produce, 2 * time.Second},
			{netfault.EndTxn, 2 * time.Second}, // a commit that comes late
			{netfault.EndTxn, 0},               // one that has just come
		}
		if full() {
			faults = append(faults, fault{netfault.Produce, time.Minute})
		}
		for _, c := range faults {
			w := exactWorld(t, three)
			topic := w.both("held", 2)
			load := w.load(topic, 2, 200, 5_000)
			direct := exactly(pipeline{topics: topic})
			relay := w.run(w.through(proxies, direct))
			w.awaitTarget(topic, 3_000, time.Minute)
			held := proxies.HoldRequests(c.api)
			if c.held == 0 {
				held = proxies.PassRequests(c.api)
			}
			<-held.First()
			at := time.Now()
			relay.kill()
			before := ends(t, w.target, topic)
			next := w.run(direct)
			w.awaitTarget(topic, before+1_000, time.Minute)
			time.Sleep(c.held - time.Since(at))
			t.Logf("%d requests of kind %d arrive %s after the kill", held.Count(), c.api, time.Since(at))
			held.Release()
			w.awaitTarget(topic, before+5_000, time.Minute)
			if code := next.terminate(30 * time.Second); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			w.finish(direct, load, topic)
		}
	})
	t.Run("paused and taken over", func(t *testing.T) {
		t.Parallel()
		for _, pause := range []time.Duration{time.Duration(count(3, 30)) * time.Second, time.Duration(count(8, 90)) * time.Second} {
			w := exactWorld(t, three)
			topic := w.both("paused", 2)
			load := w.load(topic, 2, 200, 3_000)
			p := exactly(pipeline{topics: topic, output: fmt.Sprintf("transaction_timeout: %ds", count(5, 60))})
			first := w.run(p)
			w.awaitTarget(topic, 2_000, time.Minute)
			w.stopInTransaction(first)
			second := w.run(p)
			before := ends(t, w.target, topic)
			w.awaitTarget(topic, before+2_000, time.Minute)
			time.Sleep(pause)
			first.signal(syscall.SIGCONT)
			first.mustLog(time.Minute, "has taken over")
			before = ends(t, w.target, topic)
			w.awaitTarget(topic, before+5_000, time.Minute) // the older one does not come back
			if code, body := first.ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "has taken over") {
				t.Fatalf("/ready of the older one: %d %s", code, body)
			}
			first.terminate(30 * time.Second)
			if code := second.terminate(30 * time.Second); code != 0 {
				t.Fatalf("exit code of the newer one %d", code)
			}
			w.finish(exactly(pipeline{topics: topic}), load, topic)
			w.mustHaveAborted(topic)
		}
	})
	t.Run("taken over by one that cannot relay", func(t *testing.T) {
		t.Parallel()
		w := exactWorld(t, three)
		topic := w.both("sick", 1)
		load := w.load(topic, 1, 200, 3_000)
		p := exactly(pipeline{topics: topic, input: "on_fatal: exit"})
		first := w.run(p)
		w.awaitTarget(topic, 2_000, time.Minute)
		sick := *w
		sick.source = sharedCluster(t, "src2") // it has nothing of the topic's records
		sick.create(sick.source, topic, 1)
		second := sick.run(p)
		if code := first.wait(time.Minute); code != 1 {
			t.Fatalf("exit code of the older one %d, want 1", code)
		}
		first.mustLog(time.Second, "has taken over")
		second.kill()
		w.finish(exactly(pipeline{topics: topic}), load, topic)
	})
	t.Run("paused for longer than the transaction timeout", func(t *testing.T) {
		t.Parallel()
		w := exactWorld(t, three)
		topic := w.both("stalled", 2)
		load := w.load(topic, 2, 200, 3_000)
		p := exactly(pipeline{topics: topic, output: "transaction_timeout: 2s"})
		relay := w.run(p)
		w.awaitTarget(topic, 2_000, time.Minute)
		w.stopInTransaction(relay)
		eventually(t, time.Minute, "the target gives the transaction up", func() bool { return w.transaction() == "CompleteAbort" })
		relay.signal(syscall.SIGCONT)
		before := ends(t, w.target, topic)
		w.awaitTarget(topic, before+5_000, time.Minute) // it goes on by itself
		if code := relay.terminate(30 * time.Second); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		w.finish(p, load, topic)
		w.mustHaveAborted(topic)
	})
	t.Run("brokers killed", func(t *testing.T) {
		w := exactWorld(t, three)
		topic := w.both("rolling", 3)
		load := w.load(topic, 3, 200, 3_000)
		p := exactly(pipeline{topics: topic, threads: 4, processors: "- mapping: root = content()"})
		proxies := netfault.Framed(t, three)
		relay := w.run(w.through(proxies, p))
		w.awaitTarget(topic, 2_000, time.Minute)
		for range count(1, 3) {
			for i := range count(1, 3) { // and one more below
				before, at := w.endsNow(topic), time.Now()
				w.target.Kill(i)
				eventually(t, time.Minute, "the other two take records", func() bool { return w.endsNow(topic) > before+5_000 })
				t.Logf("node %d killed: 5,000 records on after %s", i, time.Since(at).Round(time.Millisecond))
				if err := w.target.Restart(i); err != nil {
					t.Fatal(err)
				}
				w.awaitInSync(topic, 3)
			}
		}
		for range count(1, 10) { // once it has the request to commit
			i := w.coordinator()
			commit := proxies.PassRequests(netfault.EndTxn)
			<-commit.First()
			before, at := w.endsNow(topic), time.Now()
			w.target.Kill(i)
			commit.Release()
			eventually(t, time.Minute, "records go on", func() bool { return w.endsNow(topic) > before+5_000 })
			t.Logf("coordinator killed: 5,000 records on after %s", time.Since(at).Round(time.Millisecond))
			if err := w.target.Restart(i); err != nil {
				t.Fatal(err)
			}
			w.awaitInSync(topic, 3)
		}
		if code := relay.terminate(30 * time.Second); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		w.finish(p, load, topic)
	})
}

// through is a pipeline that reaches the target through proxies.
func (w *world) through(proxies *netfault.Proxies, p pipeline) pipeline {
	p.outputYAML = fmt.Sprintf("kafka_failover:\n    seed_brokers: [ %q ]\n    relay_id: %s\n    progress_topic: %s\n%s",
		strings.Join(proxies.Brokers(), ","), w.name, w.topic("progress"), indent(p.output, 4))
	return p
}

// highWatermarkAt asks one node for the high watermark of partition 0.
func (w *world) highWatermarkAt(topic string, node int) int64 {
	w.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	part := kmsg.NewListOffsetsRequestTopicPartition()
	part.Timestamp = -1
	req.Topics = append(req.Topics, kmsg.ListOffsetsRequestTopic{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{part}})
	cl := w.target.Client(w.t, kgo.SeedBrokers(w.target.Brokers()[node]))
	resp, err := cl.SeedBrokers()[0].Request(testContext(w.t), req)
	if err != nil {
		w.t.Fatal(err)
	}
	p := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
		w.t.Fatal(err)
	}
	return p.Offset
}

// leader is the index of the node that leads partition 0.
func (w *world) leader(topic string) int {
	w.t.Helper()
	m, err := w.target.Admin(w.t).Metadata(testContext(w.t), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	return int(m.Topics[topic].Partitions[0].Leader) - 1
}

// coordinator is the index of the node that coordinates the relay's
// transactions.
func (w *world) coordinator() int {
	w.t.Helper()
	node := -1
	eventually(w.t, time.Minute, "a coordinator", func() bool {
		d, err := w.target.Admin(w.t).DescribeTransactions(context.Background(), w.name+".0")
		if err != nil || d[w.name+".0"].Err != nil {
			return false
		}
		node = int(d[w.name+".0"].Coordinator) - 1
		return true
	})
	return node
}

// A record that the target refuses in the middle of a batch: a stop that names
// it, nothing of its batch and no hole; mended, all is there once.
func TestExactlyOnceRefusedRecord(t *testing.T) {
	t.Parallel() // topics of its own
	for name, c := range map[string]struct {
		config []string
		record func() *kgo.Record
		says   string
		mend   map[string]string
	}{
		"oversized": {[]string{"max.message.bytes", "20000"}, func() *kgo.Record { return &kgo.Record{Value: incompressible(50_000)} }, "MESSAGE_TOO_LARGE", map[string]string{"max.message.bytes": "1048588"}},
		"future":    {nil, func() *kgo.Record { return &kgo.Record{Value: []byte("{}"), Timestamp: time.Now().Add(2 * time.Hour)} }, "INVALID_TIMESTAMP", map[string]string{"message.timestamp.after.max.ms": "9223372036854775807"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.topic("refused")
			w.create(w.source, topic, 1, "max.message.bytes", "10000000", "message.timestamp.after.max.ms", "9223372036854775807")
			w.create(w.target, topic, 1, c.config...)
			w.fill(topic, 5_000, 1, 100)
			bad := c.record()
			bad.Topic = topic
			w.produce(w.source, bad)
			w.fillFrom(topic, 5_000, 5_000, 1, 100)
			p := exactly(pipeline{topics: topic})
			relay := w.once(p, 1)
			relay.mustLog(time.Second, "stopped at source record "+topic+"/0 offset 5000")
			relay.mustLog(time.Second, c.says)
			found := w.compare(oracle.Options{Topics: same(topic)}).Target
			rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
				if r.Offset >= int64(found) {
					return nil
				}
				return r
			}})
			if !rep.Exact() || found > 5_000 {
				t.Fatalf("before it is mended the target holds %d records, and is no prefix: %v", found, rep)
			}
			if s, _ := w.status(w.yaml(p)); s.Partitions[0].Position != int64(found) {
				t.Fatalf("%d records are committed, and position %d", found, s.Partitions[0].Position)
			}
			for k, v := range c.mend {
				if _, err := w.target.Admin(t).AlterTopicConfigs(testContext(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: k, Value: kadm.StringPtr(v)}}, topic); err != nil {
					t.Fatal(err)
				}
			}
			w.once(p, 0)
			w.mustBeExact(topic)
		})
		t.Run(name+", dropped", func(t *testing.T) {
			w := newWorld(t)
			topic := w.topic("dropped")
			w.create(w.source, topic, 1, "max.message.bytes", "10000000", "message.timestamp.after.max.ms", "9223372036854775807")
			w.create(w.target, topic, 1, c.config...)
			w.fill(topic, 2_000, 1, 100)
			bad := c.record()
			bad.Topic = topic
			w.produce(w.source, bad)
			w.fillFrom(topic, 2_000, 2_000, 1, 100)
			p := exactly(pipeline{topics: topic, output: "on_error: drop"})
			w.once(p, 0)
			if rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
				if r.Offset == 2_000 {
					return nil
				}
				return r
			}}); !rep.Exact() {
				t.Fatal(rep)
			}
		})
	}
}

func incompressible(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// A filter that drops nearly everything: what was filtered is committed as done,
// and not read again, whatever becomes of the target's tail.
func TestExactlyOnceFilter(t *testing.T) {
	w := newWorld(t)
	topic := w.both("filter", 2)
	w.fill(topic, 20_000, 2, 100)
	p := exactly(pipeline{topics: topic, processors: "- mapping: 'root = if this.n % 1000 != 0 { deleted() }'"})
	keep := func(r *kgo.Record) *kgo.Record {
		if n := string(r.Headers[0].Value); n != "0" && !strings.HasSuffix(n, "000") {
			return nil
		}
		return r
	}
	relay := w.run(p)
	eventually(t, time.Minute, "all is committed as done", func() bool {
		s, _ := w.status(w.yaml(p))
		return len(s.Partitions) == 2 && s.Partitions[0].Position == 10_000 && s.Partitions[1].Position == 10_000
	})
	relay.kill()
	if rep := w.compare(oracle.Options{Topics: same(topic), Expect: keep}); !rep.Exact() {
		t.Fatal(rep)
	}
	var all kadm.Offsets // the target is emptied
	for part := range int32(2) {
		all.AddOffset(topic, part, -1, -1)
	}
	if _, err := w.target.Admin(t).DeleteRecords(testContext(t), all); err != nil {
		t.Fatal(err)
	}
	w.fillFrom(topic, 20_000, 2_000, 2, 100)
	again := w.once(p, 0)
	again.mustLog(time.Second, ": 2000 records read")
	rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
		if r.Offset < 10_000 {
			return nil
		}
		return keep(r)
	}})
	if !rep.Exact() || rep.Source != 2 {
		t.Fatal(rep)
	}
}

// Many partitions into one, and partitions by key, killed and switched between
// sources: each source partition is there once and in order. By key, a record
// stands where Kafka's own producer puts it.
func TestExactlyOnceRoutes(t *testing.T) {
	t.Parallel() // topics of its own
	for name, route := range map[string]string{"fixed": ":0", "auto": ":auto"} {
		t.Run(name, func(t *testing.T) {
			r := seeded(t)
			p := newPool(t, 2)
			p.target = threeNodes(t)
			topic := p.all("routes", 3)
			load := p.loadAll(topic, 3, 100, 6_000)
			proxies := p.proxied(0)
			conf := exactly(pipeline{topics: fmt.Sprintf("%q", topic+":"+topic+route), threads: 4})
			arrivals := p.watch(topic)
			for i := range count(3, 20) {
				relay := p.run(p.config(conf))
				before := ends(t, p.target, topic)
				p.awaitTarget(topic, max(0, before)+3_000, time.Minute)
				if i%2 == 0 {
					at := time.Now()
					proxies.Cut()
					arrivals.mustArriveFrom(t, 1, at, 10*time.Second)
				}
				time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond) // a random moment
				relay.kill()
				if i%2 == 0 {
					proxies.Mend()
				}
			}
			load.stop()
			conf.input = stopAtEnd
			if code := p.run(p.config(conf)).wait(3 * time.Minute); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			partition := func(*kgo.Record) int32 { return 0 }
			if route == ":auto" {
				partition = byKafkasOwnProducer(t, p.world, 3)
			}
			rep := p.compare(oracle.Options{Topics: same(topic), Partition: partition, Ignore: []string{readFrom}})
			t.Log(rep)
			if !rep.Exact() || rep.Source != load.count() {
				t.Fatal(rep)
			}
		})
	}
}

// byKafkasOwnProducer has Kafka's console producer write some of the keys to a
// topic of as many partitions, and returns where it put them; keys that were not
// asked for are left open.
func byKafkasOwnProducer(t *testing.T, w *world, partitions int32) func(*kgo.Record) int32 {
	t.Helper()
	probe := w.topic("probe")
	w.create(w.target, probe, partitions)
	libs, err := kafkatest.Libs()
	if err != nil {
		t.Fatal(err)
	}
	const keys = 200
	var lines strings.Builder
	for i := range keys {
		fmt.Fprintf(&lines, "key-%d=x\n", i)
	}
	cmd := exec.Command("java", "-Xmx128m", "-cp", filepath.Join(libs, "*"), "org.apache.kafka.tools.ConsoleProducer",
		"--bootstrap-server", w.target.Brokers()[0], "--topic", probe, "--property", "parse.key=true", "--property", "key.separator==")
	cmd.Stdin = strings.NewReader(lines.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	where := map[string]int32{}
	cl := w.target.Client(t, kgo.ConsumeTopics(probe), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	eventually(t, time.Minute, "the producer's records", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { where[string(r.Key)] = r.Partition })
		return len(where) == keys
	})
	return func(r *kgo.Record) int32 {
		if p, ok := where[string(r.Key)]; ok {
			return p
		}
		return -1
	}
}

// The same relay_id goes over to exactly_once and back, and says so each time.
func TestExactlyOnceMovesOver(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("moves", 2)
	w.fill(topic, 4_000, 2, 100)
	least := pipeline{topics: topic}
	relay := w.run(least)
	w.awaitTarget(topic, 4_000, time.Minute)
	relay.kill() // positions are marks and a suffix
	w.fillFrom(topic, 4_000, 4_000, 2, 100)
	w.once(exactly(least), 0).mustLog(time.Second, "Positions of 2 partitions are taken over from delivery: at_least_once")
	w.mustBeExact(topic)
	w.fillFrom(topic, 8_000, 4_000, 2, 100)
	if log := w.once(exactly(least), 0).logs(); strings.Contains(log, "taken over") { // once
		t.Fatal(log)
	}
	w.mustBeExact(topic)
	load := w.loadOf(3_000, func(i int) *kgo.Record { return plainRecord(topic, 12_000+i, 2, 100) })
	open := w.run(exactly(pipeline{topics: topic, output: "transaction_timeout: 5s"}))
	w.awaitTarget(topic, 14_000, time.Minute)
	w.stopInTransaction(open)
	open.kill() // its transaction stays open until its timeout
	load.stop()
	w.once(least, 0).mustLog(time.Second, "Positions of 2 partitions are taken over from delivery: exactly_once; from here on")
	w.mustBeExact(topic)
}

// Records go where their content says, and are there once, whatever is killed.
func TestExactlyOnceRoutingByContent(t *testing.T) {
	t.Parallel() // topics of its own
	r := seeded(t)
	w := exactWorld(t, threeNodes(t))
	topic := w.both("content", 2)
	odd, even := w.topic("odd"), w.topic("even")
	w.create(w.target, odd, 3)
	w.create(w.target, even, 1)
	load := w.load(topic, 2, 100, 4_000)
	p := exactly(pipeline{topics: topic, threads: 2, processors: "- mapping: root = content()",
		output: fmt.Sprintf("topic: '${! if json(\"n\") %% 2 == 0 { %q } else { %q } }'\nkey: 'key-${! json(\"n\") %% 7 }'", even, odd)})
	for range count(2, 10) {
		relay := w.run(p)
		before := ends(t, w.target, even)
		w.awaitTarget(even, before+1_500, time.Minute)
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond) // a random moment
		relay.kill()
	}
	load.stop()
	w.once(p, 0)
	for name, want := range map[string]int{even: 0, odd: 1} {
		partition := func(*kgo.Record) int32 { return 0 }
		if name == odd {
			partition = byKafkasOwnProducer(t, w, 3)
		}
		rep := w.compare(oracle.Options{Topics: map[string]string{topic: name}, Expect: func(r *kgo.Record) *kgo.Record {
			n, _ := strconv.Atoi(string(r.Headers[0].Value))
			if n%2 != want {
				return nil
			}
			c := *r
			c.Key = fmt.Appendf(nil, "key-%d", n%7)
			return &c
		}, Partition: func(r *kgo.Record) int32 {
			n, _ := strconv.Atoi(string(r.Headers[0].Value))
			return partition(&kgo.Record{Key: fmt.Appendf(nil, "key-%d", n%7)})
		}})
		if t.Log(name, rep); !rep.Exact() || rep.Source < load.count()/2-1 {
			t.Fatal(rep)
		}
	}
	if n := ends(t, w.target, topic); n != 0 {
		t.Fatalf("%d records in the route's own topic", n)
	}
}

// What exactly_once needs is checked, and said in one line.
func TestExactlyOnceNeeds(t *testing.T) {
	w := newWorld(t)
	topic := w.both("needs", 1)
	w.once(exactly(pipeline{topics: topic, input: "resume: watermark"}), 1).mustLog(time.Second, "use resume: auto")
	w.once(exactly(pipeline{topics: topic, output: "transaction_timeout: 2h"}), 1).mustLog(time.Second, "raise transaction.max.timeout.ms")
	no := exactly(pipeline{topics: topic})
	no.outputYAML = fmt.Sprintf("kafka_failover: { seed_brokers: [ %q ], delivery: exactly_once }", w.target.Brokers()[0])
	f := w.file(w.yaml(no))
	if out, code := cli(t, "lint", f); code == 0 || !strings.Contains(out, "delivery: exactly_once needs a relay_id") {
		t.Errorf("lint: exit code %d: %s", code, out)
	}
	w.create(w.source, w.topic("nomark"), 1)
	w.create(w.target, w.topic("nomark"), 1)
	w.once(exactly(pipeline{topics: w.topic("nomark"), output: `origin_header: ""`}), 0)
}
