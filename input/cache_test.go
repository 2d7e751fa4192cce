package input

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/cachemarks"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

func newTestCache(t *testing.T, res *service.Resources) *cacheTarget {
	t.Helper()
	c, err := newCacheTarget(config{relay: "r", cache: cacheConf{resource: "c", maxInFlight: 2}}, res)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.endKeeping)
	return c
}

func cacheQuery(partitions int32, topicID string) relay.Query {
	return relay.Query{ClusterID: "dc1", Resume: position.ResumeCache, Topics: []relay.SourceTopic{
		{Route: relay.Route{Source: "orders", Target: "orders"}, TopicID: topicID, Partitions: partitions},
	}}
}

func stand(t *testing.T, c *cacheTarget, q relay.Query) *relay.Standing {
	t.Helper()
	st, err := c.Stand(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// begin begins a generation where the standing says; unmarked partitions at 0.
func begin(t *testing.T, c *cacheTarget, st *relay.Standing) *relay.Generation {
	t.Helper()
	plan := relay.Plan{Standing: st, WindowBytes: 1 << 20, Alone: c.alone()}
	for _, ps := range st.Parts {
		d, err := position.Resolve(ps.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		plan.Starts = append(plan.Starts, position.PartStart{Next: d.Offset})
	}
	g := relay.NewGeneration((&relay.Hub{}).AnnounceInput(false), c, plan)
	if err := c.Begin(context.Background(), g); err != nil {
		t.Fatal(err)
	}
	return g
}

func ack(t *testing.T, g *relay.Generation, part int, next int64, err error) {
	t.Helper()
	tk, e := g.Issue(context.Background(), relay.Load{Records: 1}, []relay.Span{{Part: part, Next: next}})
	if e != nil {
		t.Fatal(e)
	}
	tk.Ack(err)
}

// marked are the positions that a start would find.
func marked(t *testing.T, c *cacheTarget, routes ...string) map[string]int64 {
	t.Helper()
	var list []relay.Route
	for _, r := range routes {
		list = append(list, relay.Route{Source: r, Target: r})
	}
	marks, err := c.Marks(context.Background(), relay.Selection{Listed: list})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, m := range marks {
		out[m.Source.String()] = m.Next
	}
	return out
}

// From the first start through a refusal, a stop and a start with another
// partition.
func TestCacheTarget(t *testing.T) {
	res := service.MockResources(service.MockResourcesOptAddCache("c"))
	c := newTestCache(t, res)
	st := stand(t, c, cacheQuery(2, "id"))
	for _, ps := range st.Parts {
		if d, err := position.Resolve(ps.Evidence); err != nil || d.Start != position.StartAtConfigured {
			t.Fatalf("%v: %v, %v", ps.Part.Source, d, err)
		}
	}
	g := begin(t, c, st)
	if got := marked(t, c, "orders"); len(got) != 2 {
		t.Fatalf("before the first record the cache holds %v", got) // start_offset: latest would skip
	}
	ack(t, g, 0, 10, nil)
	ack(t, g, 1, 20, nil)
	ack(t, g, 1, 30, errors.New("full"))
	began := time.Now()
	st = stand(t, c, cacheQuery(2, "id"))
	if n := st.Parts[0].Evidence.Mark.Next; n != 10 {
		t.Errorf("orders/0 goes on at %d", n)
	}
	if n := st.Parts[1].Evidence.Mark.Next; n != 20 {
		t.Errorf("orders/1 goes on at %d", n)
	}
	if time.Since(began) < cacheInterval/2 {
		t.Error("two writes within one interval")
	}
	g = begin(t, c, st)
	if g.Passed() {
		t.Error("the next generation is not careful about what was refused")
	}
	ack(t, g, 1, 30, nil)
	c.close(context.Background())
	if got := marked(t, c, "orders"); got["orders/0"] != 10 || got["orders/1"] != 30 {
		t.Errorf("after the stop the cache holds %v", got)
	}

	next := newTestCache(t, res)
	st = stand(t, next, cacheQuery(3, "id"))
	d, err := position.Resolve(st.Parts[2].Evidence)
	if err != nil || d.Start != position.StartAt || d.Offset != 0 {
		t.Errorf("a partition that is new begins at %v, %v", d, err)
	}
	if st.Marked["orders"] != 2 {
		t.Errorf("%d partitions are known", st.Marked["orders"])
	}
}

// A source topic that is another one stops, and says which keys to remove.
func TestCacheTopicRecreated(t *testing.T) {
	res := service.MockResources(service.MockResourcesOptAddCache("c"))
	c := newTestCache(t, res)
	g := begin(t, c, stand(t, c, cacheQuery(1, "id")))
	ack(t, g, 0, 10, nil)
	c.close(context.Background())
	st := stand(t, c, cacheQuery(1, "another"))
	_, err := position.Resolve(st.Parts[0].Evidence)
	var stop *position.Stop
	if !errors.As(err, &stop) {
		t.Fatal(err)
	}
	text := c.Explain(err, nil).Error()
	for _, want := range []string{"was deleted and recreated", "forget its marks: remove the keys kafka_failover.r.0 and kafka_failover.r.1 from cache resource c"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if strings.Contains(text, "resume: start") {
		t.Errorf("%q speaks of what is for Kafka targets", text)
	}
}

// Marks that the cache loses while the relay runs are written again.
func TestCacheLosesMarks(t *testing.T) {
	res := service.MockResources(service.MockResourcesOptAddCache("c"))
	c := newTestCache(t, res)
	g := begin(t, c, stand(t, c, cacheQuery(1, "id")))
	ack(t, g, 0, 10, nil)
	ack(t, g, 0, 20, errors.New("full"))
	for _, key := range cachemarks.Keys("r") {
		_ = res.AccessCache(context.Background(), "c", func(c service.Cache) { _ = c.Delete(context.Background(), key) })
	}
	st := stand(t, c, cacheQuery(1, "id"))
	if m := st.Parts[0].Evidence.Mark; m == nil || m.Next != 10 {
		t.Fatalf("the position is %v", m)
	}
	begin(t, c, st)
	if got := marked(t, c, "orders"); got["orders/0"] != 10 {
		t.Errorf("the cache holds %v", got)
	}
}

// A cache that fails makes the relay unready, until what has moved is written.
func TestCacheFails(t *testing.T) {
	res := service.MockResources(service.MockResourcesOptAddCache("c"))
	c := newTestCache(t, res)
	var fails atomic.Bool
	var err error
	c.store, err = cachemarks.New(func(ctx context.Context, use func(service.Cache)) error {
		if fails.Load() {
			return errors.New("connection refused")
		}
		return res.AccessCache(ctx, "c", use)
	}, "r")
	if err != nil {
		t.Fatal(err)
	}
	g := begin(t, c, stand(t, c, cacheQuery(1, "id")))
	fails.Store(true)
	ack(t, g, 0, 10, nil)
	await := func(what string, cond func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	await("ready without a cache", func() bool { return g.Down() != nil })
	if text := g.Down().Error(); !strings.Contains(text, `cache resource "c" does not keep the positions`) {
		t.Error(text)
	}
	fails.Store(false)
	await("unready with a cache", func() bool { return g.Down() == nil })
	if got := marked(t, c, "orders"); got["orders/0"] != 10 {
		t.Errorf("the cache holds %v", got)
	}
	ack(t, g, 0, 20, errors.New("full"))
	fails.Store(true)
	if _, err := c.Stand(context.Background(), cacheQuery(1, "id")); err == nil {
		t.Error("a position without a cache")
	}
}
