package kafkafailover_test

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
	"github.com/twmb/franz-go/pkg/kgo"
)

// seed of everything random here; printed, so that a run can be repeated.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	t.Logf("seed %d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// The binary is killed with -9 at random moments under load and started again.
func TestKillRelayUnderLoad(t *testing.T) {
	t.Parallel() // topics of its own
	kills := count(5, 20)
	r := seeded(t)
	w := newWorld(t)
	topic := w.both("kill", 4)
	load := w.load(topic, 4, 200, 40_000)
	p := pipeline{topics: topic, processors: "- mapping: root = content()", threads: 4, output: "max_in_flight: 16", input: "batch_max_records: 500"}
	for range kills {
		w.killWhileRelaying(p, topic, r)
	}
	load.stop()
	p.input += "\n" + stopAtEnd
	if code := w.run(p).wait(3 * time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	rep := w.mustBeFaithful(topic)
	t.Logf("%d kills: lost %d, reordered %d, duplicated %d of %d", kills, rep.Lost, rep.Reordered, rep.Duplicated, rep.Source)
	if rep.Source != load.count() {
		t.Fatalf("the source holds %d records, %d were written", rep.Source, load.count())
	}
	// What had landed is proven by the suffix and not written again; only
	// requests still on their way may be. Without the suffix it would be all
	// since the last marks, some 20,000 each time.
	if most := kills * 5_000; rep.Duplicated > most {
		t.Fatalf("%d copies: more than what was on its way at a kill", rep.Duplicated)
	}
}

// killWhileRelaying starts the relay, waits until it writes, and kills it at a
// random moment while it does.
func (w *world) killWhileRelaying(p pipeline, topic string, r *rand.Rand) {
	w.t.Helper()
	relay := w.run(p)
	before := max(0, ends(w.t, w.target, topic)) + 100                                // an aborted transaction leaves a marker or two
	stuck := time.AfterFunc(50*time.Second, func() { relay.signal(syscall.SIGQUIT) }) // says where
	eventually(w.t, time.Minute, "records arrive", func() bool { return ends(w.t, w.target, topic) > before })
	stuck.Stop()
	time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond) // a random moment, not a wait for anything
	relay.kill()
}

// A filter that drops most records, killed and restarted: what was filtered is
// done, and what was not is there.
func TestFilterKilledAndRestarted(t *testing.T) {
	t.Parallel() // topics of its own
	r := seeded(t)
	w := newWorld(t)
	topic := w.both("filter", 4)
	p := pipeline{topics: topic, input: "batch_max_records: 1000", processors: `- mapping: 'root = if this.n % 10 != 0 { deleted() }'`, threads: 4}
	load := w.load(topic, 4, 100, 40_000)
	for range count(3, 10) {
		w.killWhileRelaying(p, topic, r)
	}
	load.stop()
	p.input += "\n" + stopAtEnd
	if code := w.run(p).wait(3 * time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	rep := w.compare(oracle.Options{Topics: same(topic), Expect: everyTenth})
	if !rep.Faithful() {
		t.Fatal(rep)
	}
	t.Log(rep)
}

func everyTenth(r *kgo.Record) *kgo.Record {
	if n := string(r.Headers[0].Value); n[len(n)-1] != '0' {
		return nil
	}
	return r
}

// Everything is filtered while the source's retention moves on: the position
// must follow although nothing is ever written.
func TestFilterAllWhileRetentionMoves(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("none", 1)
	w.fill(topic, 20_000, 1, 100)
	drop := pipeline{topics: topic, processors: "- mapping: root = deleted()"}
	relay := w.run(drop)
	for round := range 3 {
		at := int64(20_000 + round*10_000)
		relay.awaitMark(w, topic, 0, at)
		w.trim(w.source, topic, 0, at)
		w.fillFrom(topic, int(at), 10_000, 1, 100)
	}
	relay.awaitMark(w, topic, 0, 50_000)
	relay.kill()
	w.trim(w.source, topic, 0, 50_000)
	w.fillFrom(topic, 50_000, 100, 1, 100)
	keep := pipeline{topics: topic, input: stopAtEnd}
	if code := w.run(keep).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeExact(topic)
}

// A record is split into pieces and the relay killed in the middle.
func TestUnarchiveKilled(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("split", 2)
	r := seeded(t)
	load := w.loadOf(4_000, func(i int) *kgo.Record {
		return &kgo.Record{Topic: topic, Partition: int32(i % 2), Value: fmt.Appendf(nil, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9")}
	})
	p := pipeline{topics: topic, input: "batch_max_records: 50", processors: "- unarchive: { format: lines }", threads: 4}
	for range count(3, 10) {
		w.killWhileRelaying(p, topic, r)
	}
	load.stop()
	p.input += "\n" + stopAtEnd
	if code := w.run(p).wait(2 * time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	pieces := w.valuesByOrigin(topic)
	if len(pieces) != load.count() {
		t.Fatalf("%d of %d records have pieces in the target", len(pieces), load.count())
	}
	for origin, values := range pieces {
		if len(values) != 10 {
			t.Fatalf("record %v has %d of 10 pieces", origin, len(values))
		}
	}
}
