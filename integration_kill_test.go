package kafkafailover_test

import (
	"math/rand/v2"
	"strings"
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
	kills := count(5, 20)
	r := seeded(t)
	w := newWorld(t)
	topic := w.both("kill", 4)
	per := count(60_000, 100_000)
	w.fill(topic, per, 4, 200)
	p := pipeline{topics: topic, processors: "- mapping: root = content()", threads: 4, output: "max_in_flight: 16", input: "batch_max_records: 500"}
	written := per
	for range kills {
		relay := w.run(p)
		before := ends(t, w.target, topic)
		eventually(t, time.Minute, "records arrive", func() bool { return ends(t, w.target, topic) > before })
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond) // a random moment, not a wait for anything
		relay.kill()
		w.fillFrom(topic, written, per/4, 4, 200)
		written += per / 4
	}
	p.input += "\n" + stopAtEnd
	if code := w.run(p).wait(3 * time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	rep := w.mustBeFaithful(topic)
	t.Logf("%d kills: lost %d, reordered %d, duplicated %d of %d", kills, rep.Lost, rep.Reordered, rep.Duplicated, rep.Source)
	if rep.Duplicated > rep.Source {
		t.Fatal("more copies than records: positions are not kept")
	}
}

// A filter that drops most records, killed and restarted: what was filtered is
// done, and what was not is there.
func TestFilterKilledAndRestarted(t *testing.T) {
	r := seeded(t)
	w := newWorld(t)
	topic := w.both("filter", 4)
	n := count(200_000, 1_000_000)
	w.fill(topic, n, 4, 100)
	p := pipeline{topics: topic, input: "batch_max_records: 1000", processors: `- mapping: 'root = if this.n % 10 != 0 { deleted() }'`, threads: 4}
	for range count(3, 10) {
		relay := w.run(p)
		before := ends(t, w.target, topic)
		eventually(t, time.Minute, "records arrive", func() bool { return ends(t, w.target, topic) > before || before >= int64(n/10) })
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		relay.kill()
	}
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
	w := newWorld(t)
	topic := w.both("split", 2)
	n := count(2_000, 20_000)
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % 2), Value: []byte(strings.Repeat("line\n", 9) + "line")})
	}
	w.produce(w.source, records...)
	p := pipeline{topics: topic, input: "batch_max_records: 50", processors: "- unarchive: { format: lines }", threads: 4}
	for range count(2, 6) {
		relay := w.run(p)
		before := ends(t, w.target, topic)
		eventually(t, time.Minute, "pieces arrive", func() bool { return ends(t, w.target, topic) > before })
		relay.kill()
	}
	p.input += "\n" + stopAtEnd
	if code := w.run(p).wait(2 * time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	pieces := w.countOrigins(topic)
	if len(pieces) != n {
		t.Fatalf("%d of %d records have pieces in the target", len(pieces), n)
	}
	for origin, copies := range pieces {
		if copies < 10 {
			t.Fatalf("record %v has %d of 10 pieces", origin, copies)
		}
	}
}
