package kafkafailover_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// Under load, and with nothing happening, the relay says nothing.
func TestQuietUnderLoad(t *testing.T) {
	t.Parallel() // topics of its own, and it waits
	p := newPool(t, 2)
	topic := p.all("quiet", 2)
	load := p.loadAll(topic, 2, 200, 1_000)
	defer load.stop()
	relay := p.start(pipeline{topics: topic, processors: "- kafka_failover_filter: { name: some, check: this.n % 3 != 0 }"})
	p.awaitTarget(topic, 1_000, time.Minute)
	before := relay.logs()
	time.Sleep(time.Duration(count(5, 120)) * time.Second) // the time in which nothing is to be said
	if after := relay.logs(); after != before {
		t.Errorf("it said:\n%s", strings.TrimPrefix(after, before))
	}
	if n := strings.Count(before, "\n"); n > 25 {
		t.Errorf("%d lines at start:\n%s", n, before)
	}
}

// An outage is told when it begins and when it ends, and not all the while; each
// line names what it is about in fields of its own.
func TestOutageIsToldOnce(t *testing.T) {
	t.Parallel() // topics of its own, and it waits
	p := newPool(t, 2)
	proxies := p.proxied(0)
	topic := p.all("outage", 1)
	load := p.loadAll(topic, 1, 100, 500)
	defer load.stop()
	yaml := p.yaml(p.config(pipeline{topics: topic}))
	relay := p.runYAML(strings.Replace(yaml, "logger: { level: INFO }", "logger: { level: INFO, format: json }", 1))
	p.awaitTarget(topic, 500, time.Minute)
	began := strings.Count(relay.logs(), "\n")
	proxies.Cut()
	relay.awaitState(0, "unhealthy", 1, 30*time.Second)
	relay.mustLog(10*time.Second, "Switched from source dc1 to dc2")
	told := strings.Count(relay.logs(), "\n")
	time.Sleep(time.Duration(count(5, 60)) * time.Second) // the time in which nothing is to be repeated
	lines := strings.Split(strings.TrimSpace(relay.logs()), "\n")
	if n := len(lines) - told; n > 3 {
		t.Errorf("%d lines while the outage lasts:\n%s", n, strings.Join(lines[told:], "\n"))
	}
	named := false
	for _, l := range lines[began:] {
		var fields map[string]any
		if err := json.Unmarshal([]byte(l), &fields); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		named = named || fields["source"] == "dc1"
	}
	if !named {
		t.Errorf("no line has a field source:\n%s", strings.Join(lines[began:], "\n"))
	}
}
