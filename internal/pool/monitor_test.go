package pool

import (
	"context"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/metrics"
)

func conn(name string, c *kfake.Cluster) kafka.Conn {
	return kafka.Conn{Name: name, SeedBrokers: c.ListenAddrs(), ClientID: "me", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute}
}

func monitor(t *testing.T, sources ...kafka.Conn) *Monitor {
	t.Helper()
	res := service.MockResources()
	m := NewMonitor(Config{
		Settings: Settings{Interval: 50 * time.Millisecond, UnhealthyAfter: 2, HealthyAfter: 1}, Timeout: time.Second,
		Sources: sources, Topics: []string{"t"}, End: kafka.LastStable, Order: []int{0, 1}[:len(sources)],
		Log: res.Logger(), Metrics: metrics.NewPool(res.Metrics()),
	})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// await waits for a report that makes cond true.
func await(t *testing.T, m *Monitor, cond func() bool) {
	t.Helper()
	enough := time.After(30 * time.Second)
	for {
		changed := m.Changed()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-enough:
			t.Fatalf("not within 30s: %v", m.Status())
		}
	}
}

// A source that dies is left for the other one, whoever is asking it something
// is told, and the monitor leaves nothing running.
func TestMonitor(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	a, b := kafkatest.Fake(t, "A", kfake.SeedTopics(2, "t")), kafkatest.Fake(t, "B", kfake.SeedTopics(2, "t"))
	m := monitor(t, conn("dc1", a), conn("dc2", b))
	await(t, m, func() bool { d, _ := m.Decide(); return d == Decision{0, Initial} })
	m.Reading(0)
	await(t, m, func() bool { return m.Status()[1].State == Healthy })
	if n := m.Partitions(0, "t"); n != 2 {
		t.Errorf("topic t of dc1 has %d partitions, want 2", n)
	}
	guarded, done := m.Guard(context.Background(), 0)
	defer done()
	a.Close()
	await(t, m, func() bool { d, _ := m.Decide(); return d == Decision{1, Failed} })
	<-guarded.Done()
	if m.Recheck(context.Background(), 0) {
		t.Error("a dead source is still the one to read")
	}
	if !m.Recheck(context.Background(), 1) {
		t.Error("a healthy source is not the one to read")
	}
	m.Close()
	b.Close()
}

// One cluster under two names is found out; a missing topic everywhere is
// nothing to wait for.
func TestMonitorOneClusterNoTopic(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	a := kafkatest.Fake(t, "A", kfake.SeedTopics(2, "t"))
	m := monitor(t, conn("dc1", a), conn("dc2", a))
	await(t, m, func() bool { return m.OneCluster() != nil })
	m.Close()
	b := kafkatest.Fake(t, "B", kfake.SeedTopics(1, "another"))
	m = monitor(t, conn("dc1", b))
	await(t, m, func() bool { _, o := m.Decide(); return o == NoTopic })
	m.Close()
	a.Close()
	b.Close()
}
