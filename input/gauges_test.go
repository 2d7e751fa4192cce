package input

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// A lag is shown by target partition, where there is one.
func TestGaugePaths(t *testing.T) {
	var g gauges
	g.follow(&relay.Generation{
		Slots: []position.TP{{Topic: "b", Partition: 0}, {Topic: "b", Partition: 1}},
		Parts: []relay.Part{
			{Source: position.TP{Topic: "a", Partition: 3}, Route: relay.Route{Target: "b"}, FirstSlot: 1, Slots: 1},
			{Source: position.TP{Topic: "a", Partition: 4}, Route: relay.Route{Target: "b", Mode: relay.ByKey}, FirstSlot: 0, Slots: 2},
		},
	})
	want := []metrics.Path{{"a", "3", "b", "1"}, {"a", "4", "b", "auto"}}
	if diff := cmp.Diff(want, g.followed.Load().paths); diff != "" {
		t.Fatal(diff)
	}
}

func TestLag(t *testing.T) {
	now := time.Unix(10_000, 0)
	began := now.Add(-time.Minute)
	for name, c := range map[string]struct {
		at      relay.Backlog
		end     int64
		records int64
		age     time.Duration
	}{
		"level":                         {relay.Backlog{Next: 10, Since: now.Add(-time.Hour)}, 10, 0, 0},
		"the probe is older than that":  {relay.Backlog{Next: 12, Since: now}, 10, 0, 0},
		"behind":                        {relay.Backlog{Next: 4, Since: now.Add(-3 * time.Second)}, 10, 6, 3 * time.Second},
		"nothing was read yet":          {relay.Backlog{Next: 4}, 10, 6, time.Minute},
		"a timestamp lies ahead of now": {relay.Backlog{Next: 4, Since: now.Add(time.Hour)}, 10, 6, 0},
	} {
		if records, age := lag(c.at, c.end, began, now); records != c.records || age != c.age {
			t.Errorf("%s: %d records, %s; want %d, %s", name, records, age, c.records, c.age)
		}
	}
}
