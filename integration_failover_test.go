package kafkafailover_test

import (
	"testing"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// mustBeExactFrom compares the target with source i, but for the header that
// says where a record was read.
func (p *poolWorld) mustBeExactFrom(i int, topics ...string) {
	p.t.Helper()
	if rep := p.on(i).compare(oracle.Options{Topics: same(topics...), Ignore: []string{readFrom}}); !rep.Exact() {
		p.t.Fatal(rep)
	}
}

// The active source is killed with -9 under load, the other one level with it,
// again and again: reading goes on from the other within two seconds, and the
// target holds every record once.
func TestActiveSourceKilled(t *testing.T) {
	p := newPool(t, 2)
	p.health = "" // the defaults
	topic := p.all("killed", 4)
	load := p.loadAll(topic, 4, 200, 5_000)
	relay := p.start(pipeline{topics: topic})
	seen := p.watch(topic)
	seen.mustArriveFrom(t, 0, time.Now(), time.Minute)
	var worst time.Duration
	rounds := count(4, 20)
	for round := range rounds {
		active, other := round%2, 1-round%2
		killed := time.Now()
		p.sources[active].Kill(0)
		took := seen.mustArriveFrom(t, other, killed, 2*time.Second)
		worst = max(worst, took)
		if err := p.sources[active].Restart(0); err != nil {
			t.Fatal(err)
		}
		relay.awaitState(active, "healthy", round/2+2, time.Minute)
	}
	load.stop()
	p.awaitTarget(topic, int64(load.count()), time.Minute)
	if got := relay.switches(); got != rounds {
		t.Errorf("%d switches were counted, want %d", got, rounds)
	}
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	p.mustBeExactFrom(0, topic)
	t.Logf("%d kills: the slowest switch took %s", rounds, worst)
}
