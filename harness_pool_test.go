package kafkafailover_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest/netfault"
)

// poolWorld is a world with several sources, named dc1, dc2, ...
type poolWorld struct {
	*world
	sources []*kafkatest.Cluster
	// brokers are where the relay is to find each source.
	brokers []string
	health  string // of the input, instead of quickHealth
}

// quickHealth makes changes of state quick enough for tests to wait for, with
// the defaults where the tests measure.
const quickHealth = "health: { healthy_after: 1 }"

func newPool(t testing.TB, n int) *poolWorld {
	t.Helper()
	p := &poolWorld{world: newWorld(t), health: quickHealth}
	for i := range n {
		c := p.source
		if i > 0 {
			c = sharedCluster(t, fmt.Sprintf("src%d", i+1))
		}
		p.sources = append(p.sources, c)
		p.brokers = append(p.brokers, strings.Join(c.Brokers(), ","))
	}
	return p
}

// proxied puts proxies before source i.
func (p *poolWorld) proxied(i int) *netfault.Proxies {
	p.t.Helper()
	proxies := netfault.Before(p.t, p.sources[i])
	p.brokers[i] = strings.Join(proxies.Brokers(), ",")
	return proxies
}

// all makes a topic on every source and the target.
func (p *poolWorld) all(base string, partitions int32, configs ...string) string {
	p.t.Helper()
	p.create(p.target, p.topic(base), partitions, configs...)
	p.eachSource(func(i int) { p.create(p.sources[i], p.topic(base), partitions, configs...) })
	return p.topic(base)
}

func (p *poolWorld) eachSource(fn func(int)) {
	for i := range p.sources {
		fn(i)
	}
}

// on returns the world as it looks with source i as the only one.
func (p *poolWorld) on(i int) *world {
	w := *p.world
	w.source = p.sources[i]
	return &w
}

// fillAll writes the same records to every source.
func (p *poolWorld) fillAll(topic string, from, n, partitions, size int) {
	p.t.Helper()
	p.eachSource(func(i int) { p.on(i).fillFrom(topic, from, n, partitions, size) })
}

// loadAll writes the same records to every source, at a rate, whichever of them
// are alive: each gets what it missed once it is back.
func (p *poolWorld) loadAll(topic string, partitions, size, perSecond int) *load {
	p.t.Helper()
	var clients []*kgo.Client
	p.eachSource(func(i int) {
		clients = append(clients, p.sources[i].Client(p.t, kgo.MaxBufferedRecords(10_000_000), kgo.UnknownTopicRetries(-1)))
	})
	return generate(p.t, perSecond, func(i int) *kgo.Record { return plainRecord(topic, i, partitions, size) }, clients...)
}

// config is a pipeline with all sources. A header of each record says which
// source it was read from.
func (p *poolWorld) config(pl pipeline) pipeline {
	var list []string
	for i, b := range p.brokers {
		list = append(list, fmt.Sprintf("{ name: dc%d, seed_brokers: [ %q ] }", i+1, b))
	}
	pl.inputYAML = fmt.Sprintf("kafka_failover:\n    sources: [ %s ]\n    topics: [ %s ]\n%s%s",
		strings.Join(list, ", "), pl.topics, indent(p.health, 4), indent(pl.input, 4))
	if pl.processors == "" {
		pl.processors = "- mapping: 'meta " + readFrom + " = @kafka_source'"
		pl.output += "\nheader_metadata: { include_prefixes: [ " + readFrom + " ] }"
	}
	pl.top += "\nmetrics: { prometheus: {} }"
	return pl
}

const readFrom = "read_from"

func (p *poolWorld) start(pl pipeline) *proc { p.t.Helper(); return p.run(p.config(pl)) }

// watch follows a target topic and notes when records of which source arrive.
type watch struct {
	mu   sync.Mutex
	seen map[string]time.Time // source -> the last record's arrival
	n    atomic.Int64
}

func (p *poolWorld) watch(topic string) *watch {
	p.t.Helper()
	w := &watch{seen: map[string]time.Time{}}
	cl := p.target.Client(p.t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fetches := cl.PollFetches(ctx)
			now := time.Now()
			w.mu.Lock()
			fetches.EachRecord(func(r *kgo.Record) {
				w.n.Add(1)
				for _, h := range r.Headers {
					if h.Key == readFrom {
						w.seen[string(h.Value)] = now
					}
				}
			})
			w.mu.Unlock()
		}
	}()
	p.t.Cleanup(func() { cancel(); <-done })
	return w
}

// since tells whether a record read from source dc<i+1> has arrived after t.
func (w *watch) since(i int, t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[fmt.Sprintf("dc%d", i+1)].After(t)
}

// mustArriveFrom waits until records read from source i arrive after t, and
// returns how long that took.
func (w *watch) mustArriveFrom(t testing.TB, i int, since time.Time, within time.Duration) time.Duration {
	t.Helper()
	eventually(t, max(within, 30*time.Second), fmt.Sprintf("records from dc%d", i+1), func() bool { return w.since(i, since) })
	w.mu.Lock()
	took := w.seen[fmt.Sprintf("dc%d", i+1)].Sub(since)
	w.mu.Unlock()
	if took > within {
		t.Fatalf("the first records from dc%d came after %s, want %s", i+1, took, within)
	}
	return took
}

// metric reads a metric's value, -1 if there is none; labels must all be there.
func (p *proc) metric(name string, labels ...string) float64 {
	p.t.Helper()
	resp, err := http.Get(p.http + "/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	sum, found := 0.0, false
lines:
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(line, l) {
				continue lines
			}
		}
		f := strings.Fields(line)
		var v float64
		if _, err := fmt.Sscan(f[len(f)-1], &v); err == nil {
			sum, found = sum+v, true
		}
	}
	if !found {
		return -1
	}
	return sum
}

func (p *proc) switches() int {
	return int(max(0, p.metric("kafka_relay_source_candidate_switches_total")))
}

// awaitState waits until the relay counts source i as being in a state, n times
// altogether.
func (p *proc) awaitState(i int, state string, n int, timeout time.Duration) {
	p.t.Helper()
	eventually(p.t, timeout, fmt.Sprintf("dc%d becomes %s", i+1, state), func() bool {
		return p.metric("kafka_relay_source_state_changes_total", fmt.Sprintf("node_id=%q", fmt.Sprintf("dc%d", i+1)), fmt.Sprintf("state=%q", state)) >= float64(n)
	})
}
