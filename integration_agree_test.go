package kafkafailover_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// The new source is 1,000 records short of what was relayed: the relay waits,
// goes on when it has caught up, and never rewinds.
func TestNewSourceIsShort(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	first := p.proxied(0)
	topic := p.all("short", 2)
	p.fillAll(topic, 0, 1000, 2, 100)
	p.on(0).fillFrom(topic, 1000, 1000, 2, 100)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 2000, time.Minute)
	first.Cut()
	relay.mustLog(30*time.Second, "ends at offset 500, the relay stands at 1000")
	p.on(1).fillFrom(topic, 1000, 500, 2, 100) // not yet
	eventually(t, 10*time.Second, "/ready says what is waited for", func() bool {
		code, body := relay.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "dc2 is short")
	})
	if got := ends(t, p.target, topic); got != 2000 {
		t.Fatalf("the target holds %d records, want 2000: something was relayed from a source that is short", got)
	}
	p.on(1).fillFrom(topic, 1500, 700, 2, 100)
	p.awaitTarget(topic, 2200, 30*time.Second)
	relay.mustLog(time.Second, "Switched from source dc1 to dc2")
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(1, topic)
}

// differ writes to source i what fillAll would, but for one record.
func (p *poolWorld) differ(i int, topic string, n, partitions, size, at int) {
	p.t.Helper()
	cl := p.sources[i].Client(p.t)
	for k := range n {
		r := plainRecord(topic, k, partitions, size)
		if k >= at {
			r.Value = append([]byte("not "), r.Value...)
		}
		cl.Produce(testContext(p.t), r, nil)
	}
	if err := cl.Flush(testContext(p.t)); err != nil {
		p.t.Fatal(err)
	}
}

// The new source holds other records from some offset on: it is quarantined and
// named, and the third one is taken. LogAppendTime there is no difference.
func TestDivergedSourceIsQuarantined(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 3)
	first := p.proxied(0)
	topic := p.topic("diverged")
	p.create(p.target, topic, 1)
	p.create(p.sources[0], topic, 1)
	p.create(p.sources[1], topic, 1)
	p.create(p.sources[2], topic, 1, "message.timestamp.type", "LogAppendTime")
	p.on(0).fillFrom(topic, 0, 1000, 1, 100)
	p.differ(1, topic, 1100, 1, 100, 900) // heavier than the third, so it is tried first
	p.on(2).fillFrom(topic, 0, 1000, 1, 100)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 1000, time.Minute)
	for i := range 2 {
		relay.awaitState(i+1, "healthy", 1, time.Minute)
	}
	first.Cut()
	relay.mustLog(30*time.Second, "Switched from source dc1 to dc3")
	relay.mustNameDifference(topic, 0, 999)
	p.on(0).fillFrom(topic, 1000, 100, 1, 100)
	p.on(2).fillFrom(topic, 1000, 100, 1, 100)
	p.awaitTarget(topic, 1100, time.Minute)
	if n := relay.metric("kafka_relay_source_state_changes_total", `node_id="dc2"`, `state="diverged"`); n != 1 {
		t.Errorf("dc2 was quarantined %v times", n)
	}
	relay.terminate(30 * time.Second)
	rep := p.on(0).compare(oracle.Options{Topics: same(topic), Ignore: []string{readFrom}})
	if rep.Lost+rep.Duplicated+rep.Reordered+rep.Foreign > 0 || rep.Altered != 100 { // the timestamps of the third
		t.Fatal(rep)
	}
}

// mustNameDifference looks for the line that says where a source differs.
func (p *proc) mustNameDifference(topic string, partition, offset int) {
	p.t.Helper()
	want := fmt.Sprintf("does not hold the records that were relayed before: partition %s/%d, offset %d has fingerprint ", topic, partition, offset)
	p.mustLog(10*time.Second, want)
	_, rest, _ := strings.Cut(p.logs(), want)
	var held, relayed string
	if n, err := fmt.Sscanf(rest, "%16s, relayed was %16s", &held, &relayed); n != 2 || err != nil || held == relayed {
		p.t.Fatalf("the two fingerprints are not named: %.80s", rest)
	}
}

// The other source differs and the first is dead: nothing is relayed from the
// wrong one, the relay is unready and says why, and goes on when the first
// returns.
func TestDivergedSourceIsNeverRead(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	first := p.proxied(0)
	topic := p.all("never", 1)
	p.on(0).fillFrom(topic, 0, 1000, 1, 100)
	p.differ(1, topic, 1100, 1, 100, 900)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 1000, time.Minute)
	relay.awaitState(1, "healthy", 1, time.Minute)
	first.Cut()
	relay.mustNameDifference(topic, 0, 999)
	eventually(t, 10*time.Second, "/ready names the difference", func() bool {
		code, body := relay.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "dc2 is diverged") && strings.Contains(body, "has fingerprint")
	})
	if got := ends(t, p.target, topic); got != 1000 {
		t.Fatalf("the target holds %d records, want 1000", got)
	}
	p.on(0).fillFrom(topic, 1000, 100, 1, 100)
	first.Mend()
	p.awaitTarget(topic, 1100, 30*time.Second)
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(0, topic)
}

// Every source differs from what was relayed: the relay stops, and names topic,
// partition, offset and both fingerprints. With on_divergence: ignore it goes on.
func TestEverySourceDiffers(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 3)
	topic := p.all("none", 1)
	p.on(0).fillFrom(topic, 0, 1000, 1, 100)
	p.differ(1, topic, 1100, 1, 100, 900)
	p.differ(2, topic, 1100, 1, 100, 950)
	p.on(0).once(pipeline{topics: topic}, 0)
	p.sources, p.brokers = p.sources[1:], p.brokers[1:]
	for what, pl := range map[string]pipeline{"exit": {input: "on_fatal: exit"}, "stop": {}} {
		relay := p.start(pipeline{topics: topic, input: pl.input})
		relay.mustNameDifference(topic, 0, 999)
		if what == "exit" {
			if code := relay.wait(time.Minute); code != 1 {
				t.Fatalf("exit code %d, want 1", code)
			}
		} else {
			eventually(t, 10*time.Second, "/ready names the difference", func() bool {
				code, body := relay.ready()
				return code == http.StatusServiceUnavailable && strings.Contains(body, "has fingerprint")
			})
			relay.terminate(30 * time.Second)
		}
	}
	if got := ends(t, p.target, topic); got != 1000 {
		t.Fatalf("the target holds %d records, want 1000", got)
	}
	relay := p.start(pipeline{topics: topic, input: "on_divergence: ignore\n" + stopAtEnd})
	if code := relay.wait(time.Minute); code != 0 {
		t.Fatalf("on_divergence: ignore: exit code %d", code)
	}
	relay.mustLog(time.Second, "on_divergence: ignore")
	if got := ends(t, p.target, topic); got != 1100 {
		t.Fatalf("the target holds %d records, want 1100", got)
	}
}

// Nothing is left on the other source to compare it with: on_unverified decides.
func TestUnverifiedSource(t *testing.T) {
	for policy, want := range map[string]string{"continue": "it is followed unverified", "stop": "on_unverified: stop"} {
		t.Run(policy, func(t *testing.T) {
			p := newPool(t, 2)
			topic := p.all("unverified", 1)
			p.fillAll(topic, 0, 1000, 1, 100)
			p.on(0).once(pipeline{topics: topic}, 0)
			p.trim(p.sources[1], topic, 0, 1000)
			p.fillAll(topic, 1000, 100, 1, 100)
			p.sources, p.brokers = p.sources[1:], p.brokers[1:]
			relay := p.start(pipeline{topics: topic, input: stopAtEnd + "\non_unverified: " + policy})
			code := relay.wait(time.Minute)
			relay.mustLog(time.Second, want)
			if got := ends(t, p.target, topic); (policy == "continue") != (code == 0) || (policy == "continue") != (got == 1100) {
				t.Fatalf("exit code %d, the target holds %d records", code, got)
			}
		})
	}
}

// The source topic is recreated on the active source while the relay runs, and
// while it is down: that source is quarantined, the other one is read, nothing
// is spliced. Recreated on both, it stops.
func TestTopicRecreatedOnOneSource(t *testing.T) {
	t.Parallel() // topics of its own
	for _, live := range []bool{true, false} {
		t.Run(fmt.Sprintf("live=%v", live), func(t *testing.T) {
			p := newPool(t, 2)
			topic := p.all("again", 1)
			p.fillAll(topic, 0, 1000, 1, 100)
			relay := p.start(pipeline{topics: topic})
			relay.awaitMark(p.world, topic, 0, 1000)
			relay.awaitState(1, "healthy", 1, time.Minute)
			if !live {
				relay.terminate(30 * time.Second)
			}
			again := func(i int) {
				if _, err := p.sources[i].Admin(t).DeleteTopic(testContext(t), topic); err != nil {
					t.Fatal(err)
				}
				p.recreate(p.sources[i], topic, 1)
				p.differ(i, topic, 3000, 1, 100, 0)
			}
			again(0)
			if !live {
				relay = p.start(pipeline{topics: topic})
			}
			p.on(1).fillFrom(topic, 1000, 100, 1, 100)
			p.awaitTarget(topic, 1100, time.Minute)
			if live {
				relay.awaitMark(p.world, topic, 0, 1100)
			}
			p.mustBeExactFrom(1, topic)
			again(1)
			eventually(t, time.Minute, "/ready says that it has stopped", func() bool {
				code, body := relay.ready()
				return code == http.StatusServiceUnavailable && strings.Count(body, "deleted and recreated")+strings.Count(body, "does not hold the records") >= 2
			})
			relay.terminate(30 * time.Second)
			if got := ends(t, p.target, topic); got != 1100 {
				t.Fatalf("the target holds %d records, want 1100", got)
			}
		})
	}
}

// Retention has passed the position on one source: the other one is used.
func TestGapOnOneSource(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("gap1", 1)
	p.fillAll(topic, 0, 100, 1, 50)
	p.on(0).once(pipeline{topics: topic}, 0)
	p.fillAll(topic, 100, 100, 1, 50)
	p.trim(p.sources[0], topic, 0, 150)
	relay := p.start(pipeline{topics: topic, input: stopAtEnd})
	if code := relay.wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	relay.mustLog(time.Second, "no longer has records of partition "+topic+"/0 at offsets 100 to 149")
	if rep := p.on(1).compare(oracle.Options{Topics: same(topic), Ignore: []string{readFrom}}); !rep.Exact() {
		t.Fatal(rep)
	}
}

// Retention passes the position of the active source while it is read: its
// records are still to be had from the other one.
func TestGapWhileReading(t *testing.T) {
	p := newPool(t, 2)
	first := p.proxied(0)
	p.health = "health: { healthy_after: 1, stall_timeout: 1h }"
	topic := p.all("gap2", 1)
	p.fillAll(topic, 0, 100, 1, 50)
	relay := p.start(pipeline{topics: topic})
	relay.awaitMark(p.world, topic, 0, 100)
	relay.awaitState(1, "healthy", 1, time.Minute)
	first.SwallowFetches() // so that the position stands still meanwhile
	p.fillAll(topic, 100, 1, 1, 50)
	p.fillAll(topic, 101, 499, 1, 50)
	p.trim(p.sources[0], topic, 0, 600)
	first.Cut() // the connection in which a fetch was swallowed
	first.Heal()
	first.Mend()
	p.awaitTarget(topic, 600, time.Minute)
	relay.mustLog(time.Second, "Switched from source dc1 to dc2")
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(1, topic)
}

// Retention has passed the position on every source: the relay stops and names
// the exact range; with on_gap: skip it goes on, and counts what is lost.
func TestGapOnEverySource(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("gaps", 2)
	p.fillAll(topic, 0, 200, 2, 50)
	p.on(0).once(pipeline{topics: topic}, 0)
	p.fillAll(topic, 200, 200, 2, 50)
	p.trim(p.sources[0], topic, 0, 170)
	p.trim(p.sources[1], topic, 0, 150) // loses least
	relay := p.start(pipeline{topics: topic, input: stopAtEnd})
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustLog(time.Second, "partition "+topic+"/0 at offsets 100 to 169")
	relay.mustLog(time.Second, "partition "+topic+"/0 at offsets 100 to 149")
	relay.mustLog(time.Second, "on_gap: skip")
	if got := ends(t, p.target, topic); got != 200 {
		t.Fatalf("the target holds %d records, want 200", got)
	}
	relay = p.start(pipeline{topics: topic, input: "on_gap: skip"})
	p.awaitTarget(topic, 350, time.Minute)
	if n := relay.metric("kafka_relay_messages_lost_total", fmt.Sprintf("source_topic=%q", topic), `source_partition="0"`); n != 50 {
		t.Errorf("%v records are counted as lost, want 50", n)
	}
	relay.mustLog(time.Second, "has lost offsets 100 to 149 on every source")
	relay.terminate(30 * time.Second)
	// Everything that is left on the second source behind the gap is there.
	if got := ends(t, p.target, topic); got != 350 {
		t.Fatalf("the target holds %d records, want 350", got)
	}
	// And the next start finds no gap.
	if code := p.start(pipeline{topics: topic, input: stopAtEnd}).wait(time.Minute); code != 0 {
		t.Fatalf("after the gap: exit code %d", code)
	}
}

// Two names for one cluster are refused.
func TestTwoNamesForOneCluster(t *testing.T) {
	p := newPool(t, 1)
	topic := p.all("twice", 1)
	p.fillAll(topic, 0, 100, 1, 50)
	p.brokers = append(p.brokers, strings.Replace(p.brokers[0], "127.0.0.1", "localhost", 1))
	relay := p.start(pipeline{topics: topic, input: "on_fatal: exit"})
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustLog(time.Second, "sources dc1 and dc2 are the same cluster")
}

// Partitions are added while the relay runs: on the source that is read they
// are relayed from offset 0; one that lacks them is not switched to.
func TestPartitionsAdded(t *testing.T) {
	p := newPool(t, 2)
	first := p.proxied(0)
	topic := p.all("grows", 2)
	p.fillAll(topic, 0, 200, 2, 50)
	relay := p.start(pipeline{topics: topic, processors: "- unarchive: { format: lines }"}) // pieces: only marks pass them
	p.awaitTarget(topic, 200, time.Minute)
	grow := func(w *world) {
		if _, err := w.source.Admin(t).UpdatePartitions(testContext(t), 3, topic); err != nil {
			t.Fatal(err)
		}
		w.source.AwaitTopic(t, topic)
	}
	target := *p.world
	target.source = p.target
	grow(&target)
	grow(p.on(0))
	p.on(0).fillFrom(topic, 200, 300, 3, 50)
	p.awaitTarget(topic, 500, time.Minute)
	relay.awaitMark(p.world, topic, 2, 100)
	first.Cut()
	relay.mustLog(30*time.Second, "it lacks partition "+topic+"/2")
	if got := ends(t, p.target, topic); got != 500 {
		t.Fatalf("the target holds %d records, want 500", got)
	}
	grow(p.on(1))
	p.on(1).fillFrom(topic, 200, 400, 3, 50)
	p.awaitTarget(topic, 600, time.Minute)
	relay.terminate(30 * time.Second)
	p.on(1).mustBeExact(topic)
}

// The target lacks a partition that was added at the source: a clear stop.
func TestPartitionsAddedTargetLacks(t *testing.T) {
	p := newPool(t, 1)
	topic := p.all("lacks", 2)
	p.fillAll(topic, 0, 200, 2, 50)
	relay := p.start(pipeline{topics: topic, input: "on_fatal: exit"})
	p.awaitTarget(topic, 200, time.Minute)
	if _, err := p.source.Admin(t).UpdatePartitions(testContext(t), 3, topic); err != nil {
		t.Fatal(err)
	}
	if code := relay.wait(time.Minute); code != 1 {
		t.Fatalf("exit code %d, want 1", code)
	}
	relay.mustLog(time.Second, "has 2 partitions and needs 3")
	relay.mustLog(time.Second, "kafka-topics.sh")
}

// The source that is read falls behind: it is left for the one ahead, once per
// cooldown.
func TestLaggardIsLeft(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	p.health = "health: { healthy_after: 1, interval: 200ms, lag_threshold: 500, cooldown: 8s }"
	topic := p.all("lags", 2)
	p.fillAll(topic, 0, 1000, 2, 100)
	relay := p.start(pipeline{topics: topic})
	seen := p.watch(topic)
	p.awaitTarget(topic, 1000, time.Minute)
	relay.awaitState(1, "healthy", 1, time.Minute)
	p.on(1).fillFrom(topic, 1000, 1000, 2, 100) // only the second one goes on
	seen.mustArriveFrom(t, 1, time.Now().Add(-time.Second), 30*time.Second)
	p.awaitTarget(topic, 2000, time.Minute)
	moved := time.Now()
	relay.mustLog(time.Second, "the source lags behind: dc1 by 1000 records")
	if n := relay.metric("kafka_relay_source_lag_threshold_exceeded_total", `node_id="dc1"`); n != 1 {
		t.Errorf("the laggard was counted %v times, want once", n)
	}
	if n := relay.metric("kafka_relay_source_lag_threshold_exceeded_total", `node_id="dc2"`); n > 0 {
		t.Errorf("the one ahead was counted as lagging")
	}
	p.on(0).fillFrom(topic, 1000, 3000, 2, 100) // now the first one is ahead
	p.awaitTarget(topic, 4000, time.Minute)
	// The move back came no sooner than the cooldown allows, counted from the
	// beginning of the first one, which was before it was seen.
	if took := time.Since(moved); took < 6*time.Second {
		t.Errorf("the next move for lag came after %s, want the cooldown of 8s", took)
	}
	if got := relay.switches(); got != 2 {
		t.Errorf("%d switches, want 2", got)
	}
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(0, topic)
}

// One earlier in the list is gone back to, where the configuration says so.
func TestFailback(t *testing.T) {
	p := newPool(t, 2)
	first := p.proxied(0)
	p.health = "health: { failback: true, interval: 200ms, cooldown: 0s }"
	topic := p.all("back", 1)
	p.fillAll(topic, 0, 100, 1, 100)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 100, time.Minute)
	relay.awaitState(1, "healthy", 1, time.Minute)
	first.Cut()
	relay.mustLog(30*time.Second, "Switched from source dc1 to dc2 (failed)")
	first.Mend()
	relay.mustLog(30*time.Second, "Switched from source dc2 to dc1 (failback)")
	p.fillAll(topic, 100, 100, 1, 100)
	p.awaitTarget(topic, 200, time.Minute)
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(0, topic)
}
