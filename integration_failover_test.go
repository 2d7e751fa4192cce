package kafkafailover_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest/netfault"
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
	rounds := count(2, 20)
	for round := range rounds {
		active, other := round%2, 1-round%2
		// The other one has caught up with what it missed, or it is short.
		awaitEnds(t, p.sources[other], topic, ends(t, p.target, topic), time.Minute)
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

// The active source hangs: its process is paused, or the network swallows every
// byte. No error comes from anywhere; the relay's own probe notices.
func TestActiveSourceHangs(t *testing.T) {
	t.Run("paused", func(t *testing.T) {
		p := newPool(t, 2)
		p.mustLeave(t, func() { p.sources[0].Pause(0) }, func() { p.sources[0].Resume(0) })
	})
	t.Run("half-open", func(t *testing.T) {
		p := newPool(t, 2)
		proxies := p.proxied(0)
		p.mustLeave(t, proxies.Swallow, proxies.Heal)
	})
}

// mustLeave has the first source break under load, and mend after the switch.
func (p *poolWorld) mustLeave(t *testing.T, breakIt, mend func()) {
	p.health = "" // the defaults
	topic := p.all("hangs", 2)
	load := p.loadAll(topic, 2, 200, 2_000)
	relay := p.start(pipeline{topics: topic})
	seen := p.watch(topic)
	seen.mustArriveFrom(t, 0, time.Now(), time.Minute)
	// The switch goes to a healthy source: the other one has been probed.
	relay.awaitState(1, "healthy", 1, time.Minute)
	broken := time.Now()
	breakIt()
	took := seen.mustArriveFrom(t, 1, broken, 5*time.Second)
	mend()
	relay.awaitState(0, "healthy", 2, time.Minute)
	load.stop()
	p.awaitTarget(topic, int64(load.count()), time.Minute)
	if got := relay.switches(); got != 1 {
		t.Errorf("%d switches, want 1: healthy again is no reason to go back", got)
	}
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(1, topic)
	t.Logf("the other source was read after %s", took)
}

// A source that answers probes and gives no records is left after stall_timeout.
func TestSourceGivesNoRecords(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	proxies := p.proxied(0)
	p.health = "health: { stall_timeout: 3s }"
	topic := p.all("stalled", 2)
	p.fillAll(topic, 0, 1000, 2, 100)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 1000, time.Minute)
	proxies.SwallowFetches()
	p.fillAll(topic, 1000, 1000, 2, 100) // a fetch that waits at the broker may still bring these
	p.fillAll(topic, 2000, 1000, 2, 100)
	p.awaitTarget(topic, 3000, 30*time.Second)
	relay.mustLog(time.Second, "answers probes and gives no records")
	relay.mustLog(time.Second, "Switched from source dc1 to dc2")
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(0, topic)
}

// A source that answers probes and leaves the examination before reading
// unanswered is left too, at a start with the mark's samples to compare.
func TestSourceAnswersProbesOnly(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	p.health = "health: { healthy_after: 1, stall_timeout: 5s }"
	proxies := p.proxied(0)
	topic := p.all("probesOnly", 1)
	p.fillAll(topic, 0, 100, 1, 100)
	p.on(0).once(pipeline{topics: topic}, 0)
	p.fillAll(topic, 100, 100, 1, 100)
	proxies.SwallowFetches()
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 200, 2*time.Minute)
	relay.mustLog(time.Second, "Source dc1 is unhealthy")
	relay.mustLog(time.Second, "Reading from source dc2")
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(1, topic)
}

// All sources go down, then one comes back, in both orders: the relay says so
// once, and goes on by itself.
func TestAllSourcesDown(t *testing.T) {
	for back := range 2 {
		t.Run(fmt.Sprintf("dc%d returns", back+1), func(t *testing.T) {
			p := newPool(t, 2)
			proxies := []*netfault.Proxies{p.proxied(0), p.proxied(1)}
			p.health = "" // the defaults
			topic := p.all("down", 2)
			p.fillAll(topic, 0, 1000, 2, 100)
			relay := p.start(pipeline{topics: topic})
			p.awaitTarget(topic, 1000, time.Minute)
			for _, x := range proxies {
				x.Cut()
			}
			relay.mustLog(30*time.Second, "no healthy source can be read")
			eventually(t, 10*time.Second, "/ready says why", func() bool {
				code, body := relay.ready()
				return code == http.StatusServiceUnavailable && strings.Contains(body, "dc1 is unhealthy") && strings.Contains(body, "dc2 is unhealthy")
			})
			if n := relay.metric("kafka_relay_source_unhealthy_total"); n < 1 {
				t.Errorf("kafka_relay_source_unhealthy_total is %v", n)
			}
			p.fillAll(topic, 1000, 1000, 2, 100)
			proxies[back].Mend()
			p.awaitTarget(topic, 2000, 30*time.Second)
			eventually(t, 10*time.Second, "/ready is 200 again", func() bool { code, _ := relay.ready(); return code == http.StatusOK })
			if n := strings.Count(relay.logs(), "no healthy source can be read"); n != 1 {
				t.Errorf("one outage was said %d times", n)
			}
			relay.terminate(30 * time.Second)
			p.mustBeExactFrom(back, topic)
		})
	}
}

// Sources flap, in turn, every two seconds: no more switches than the hysteresis
// allows, and nothing is lost.
func TestSourcesFlap(t *testing.T) {
	p := newPool(t, 2)
	proxies := []*netfault.Proxies{p.proxied(0), p.proxied(1)}
	p.health = "" // the defaults
	topic := p.all("flap", 2)
	load := p.loadAll(topic, 2, 200, 2_000)
	relay := p.start(pipeline{topics: topic})
	p.awaitTarget(topic, 1000, time.Minute)
	relay.awaitState(1, "healthy", 1, time.Minute)
	flaps := count(8, 60)
	for i := range flaps {
		down := i % 2
		proxies[down].Cut()
		time.Sleep(2 * time.Second) // the flapping itself
		proxies[down].Mend()
	}
	load.stop()
	p.awaitTarget(topic, int64(load.count()), time.Minute)
	// The first outage leads to the other source. From then on neither stays up
	// for three probes an interval apart, so nothing else may be switched to,
	// but at the end, when both stay up, the healthy one may be.
	if got := relay.switches(); got < 1 || got > 2 {
		t.Errorf("%d flaps led to %d switches", flaps, got)
	}
	relay.terminate(30 * time.Second)
	p.mustBeExactFrom(0, topic)
}

// Everything at once: three sources, several topics and routes, a filter,
// stop_at_end; the active source is killed in the middle, the relay too.
func TestFailoverWhole(t *testing.T) {
	p := newPool(t, 3)
	n := count(60_000, 300_000)
	same1, renamed := p.all("same", 3), p.topic("renamed")
	p.eachSource(func(i int) { p.create(p.sources[i], renamed, 2) })
	p.create(p.target, renamed+".copy", 2)
	p.fillAll(same1, 0, n, 3, 200)
	p.fillAll(renamed, 0, n, 2, 200)
	config := p.config(pipeline{
		topics: same1 + ", \"" + renamed + ":" + renamed + ".copy\"", input: "batch_max_records: 500\n" + stopAtEnd,
		processors: "- mapping: 'root = if this.n % 10 != 0 { deleted() }'", threads: 4,
	})
	wrote := func() int64 { return max(0, ends(t, p.target, same1)) + max(0, ends(t, p.target, renamed+".copy")) }
	relay := p.run(config)
	eventually(t, time.Minute, "records arrive", func() bool { return wrote() > int64(n)/50 })
	relay.kill()
	relay = p.run(config)
	before := wrote()
	eventually(t, time.Minute, "more records arrive", func() bool { return wrote() > before })
	p.sources[0].Kill(0)
	code := relay.wait(3 * time.Minute)
	if err := p.sources[0].Restart(0); err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for i := range p.sources {
		rep := p.on(i).compare(oracle.Options{Topics: map[string]string{same1: same1, renamed: renamed + ".copy"}, Expect: everyTenth})
		if !rep.Faithful() || rep.Source != 2*n/10 {
			t.Fatal(rep)
		}
		t.Log(rep)
	}
}

// config/failover.yaml is what the README says it is: run as it stands, it
// follows a source that dies.
func TestFailoverConfig(t *testing.T) {
	p := newPool(t, 2)
	first := p.proxied(0)
	const topic = "orders"
	p.create(p.target, topic, 1)
	p.eachSource(func(i int) { p.create(p.sources[i], topic, 1) })
	order := func(from int) {
		for i := range p.sources {
			for k := range 100 {
				p.produce(p.sources[i], &kgo.Record{Topic: topic, Timestamp: epoch, Value: fmt.Appendf(nil, `{"n":%d,"currency":"%s"}`, from+k, []string{"INR", "EUR"}[k%2])})
			}
		}
	}
	order(0)
	t.Setenv("DC1_BROKERS", p.brokers[0])
	t.Setenv("DC2_BROKERS", p.brokers[1])
	t.Setenv("TARGET_BROKERS", strings.Join(p.target.Brokers(), ","))
	b, err := os.ReadFile("config/failover.yaml")
	if err != nil {
		t.Fatal(err)
	}
	relay := p.runYAML(string(b))
	p.awaitTarget(topic, 50, time.Minute)
	relay.mustLog(time.Minute, "Source dc2 is healthy")
	first.Cut()
	order(100)
	p.awaitTarget(topic, 100, 30*time.Second)
	relay.mustLog(time.Second, "Switched from source dc1 to dc2")
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if rep := p.on(1).compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
		if !strings.Contains(string(r.Value), "INR") {
			return nil
		}
		return r
	}}); !rep.Exact() || rep.Source != 100 {
		t.Fatal(rep)
	}
	if out, code := cli(t, "lint", "config/failover.yaml"); code != 0 {
		t.Errorf("lint: %s", out)
	}
}
