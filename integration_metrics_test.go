package kafkafailover_test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// series is one line of what a relay exposes.
type series struct {
	name   string
	labels map[string]string
	value  float64
}

// scraped is what a relay exposes at one moment.
type scraped struct {
	types  map[string]string // by name
	series []series
}

var (
	seriesLine = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// scrape reads /metrics, as Prometheus does; nothing is there before the relay
// listens.
func (p *proc) scrape() *scraped {
	p.t.Helper()
	s := &scraped{types: map[string]string{}}
	resp, err := http.Get(p.http + "/metrics")
	if err != nil {
		return s
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" {
			s.types[f[2]] = f[3]
		}
		m := seriesLine.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(m[1], metrics.Prefix) {
			continue
		}
		x := series{name: m[1], labels: map[string]string{}}
		for _, l := range labelPair.FindAllStringSubmatch(m[2], -1) {
			x.labels[l[1]] = l[2]
		}
		if x.value, err = strconv.ParseFloat(m[3], 64); err != nil {
			p.t.Fatal(err)
		}
		s.series = append(s.series, x)
	}
	return s
}

// sum adds up the series of a name that have these labels (name, value, name,
// value); -1 if there is none.
func (s *scraped) sum(name string, labels ...string) float64 {
	sum, found := 0.0, false
series:
	for _, x := range s.series {
		if x.name != metrics.Prefix+name {
			continue
		}
		for i := 0; i+1 < len(labels); i += 2 {
			if x.labels[labels[i]] != labels[i+1] {
				continue series
			}
		}
		sum, found = sum+x.value, true
	}
	if !found {
		return -1
	}
	return sum
}

// mustShow waits until a scrape fulfils cond, and returns it.
func (p *proc) mustShow(what string, cond func(*scraped) bool) *scraped {
	p.t.Helper()
	var s *scraped
	eventually(p.t, time.Minute, what, func() bool { s = p.scrape(); return cond(s) })
	return s
}

// mustBe compares values with those wanted, by name and labels.
func (s *scraped) mustBe(t *testing.T, when string, want map[string]float64) {
	t.Helper()
	for query, v := range want {
		f := strings.Fields(query)
		if got := s.sum(f[0], f[1:]...); got != v {
			t.Errorf("%s: %s is %v, want %v", when, query, got, v)
		}
	}
}

// mustBeAll compares what is exposed with internal/metrics' list: names, kinds,
// labels, and nothing else.
func (s *scraped) mustBeAll(t *testing.T) {
	t.Helper()
	want := map[string][]string{}
	for _, m := range metrics.All() {
		for name, labels := range m.Series() {
			want[name] = slices.Sorted(slices.Values(append(slices.Clone(labels), "label", "path")))
			kind := string(metrics.Counter)
			if m.Kind == metrics.Gauge {
				kind = string(metrics.Gauge)
			}
			if got := s.types[name]; got != kind {
				t.Errorf("%s is exposed as %q, want %s", name, got, kind)
			}
		}
	}
	for _, x := range s.series {
		if got := slices.Sorted(maps.Keys(x.labels)); !slices.Equal(got, want[x.name]) {
			t.Errorf("%s is exposed with labels %v, want %v", x.name, got, want[x.name])
		}
	}
}

// mustCount checks that a histogram's buckets rise to its count.
func (s *scraped) mustCount(t *testing.T, name string) {
	t.Helper()
	var before float64
	buckets := slices.DeleteFunc(slices.Clone(s.series), func(x series) bool { return x.name != metrics.Prefix+name+"_bucket" })
	slices.SortFunc(buckets, func(a, b series) int {
		x, _ := strconv.ParseFloat(a.labels["le"], 64)
		y, _ := strconv.ParseFloat(b.labels["le"], 64)
		return cmp.Compare(x, y)
	})
	for _, b := range buckets {
		if b.value < before {
			t.Errorf("%s: bucket %s counts %v, the one below %v", name, b.labels["le"], b.value, before)
		}
		before = b.value
	}
	if n := s.sum(name + "_count"); n != before || n == 0 {
		t.Errorf("%s counts %v, its last bucket %v", name, n, before)
	}
}

// Scraped before, while and after the source that is read is killed: each metric
// says what docs/metrics.md says, and nothing else is exposed.
func TestMetrics(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("metrics", 2)
	load := p.loadAll(topic, 2, 200, 2_000)
	relay := p.start(pipeline{topics: topic, processors: `
- kafka_failover_filter: { name: fives, check: this.n % 5 != 0 }
- mapping: root = if this.n % 5 == 1 { deleted() }`})
	before := relay.mustShow("records are relayed, and the other source is healthy", func(s *scraped) bool {
		return s.sum("messages_relayed_total") > 1_000 && s.sum("source_state", "node_id", "dc2", "state", "healthy") == 1 && s.sum("mark_age_seconds") >= 0
	})
	before.mustBe(t, "before", map[string]float64{
		"ready": 1, "source_active node_id dc1": 1, "source_active node_id dc2": 0, "source_candidate_switches_total": 0,
		"source_state node_id dc1": 1, "source_state node_id dc1 state healthy": 1, "source_unhealthy_total": 0,
		"source_errors_total": 0, "source_records_read_total node_id dc2": 0, "window_limit_bytes": 16 * 4 << 20,
		"messages_lost_total": 0, "target_kafka_errors_total": 0, "target_errors_total": 0,
	})
	p.sources[0].Kill(0)
	during := relay.mustShow("the other source is read", func(s *scraped) bool {
		return s.sum("source_records_read_total", "node_id", "dc2") > 1_000 && s.sum("ready") == 1
	})
	during.mustBe(t, "during", map[string]float64{
		"source_active node_id dc1": 0, "source_active node_id dc2": 1, "source_candidate_switches_total": 1,
		"source_state node_id dc1": 1, "source_state node_id dc1 state unhealthy": 1, "source_state_changes_total node_id dc1 state unhealthy": 1,
	})
	if during.sum("source_errors_total", "node_id", "dc1", "error", "connection_failed") < 1 {
		t.Error("connections to the source that is dead are not counted as failed")
	}
	if err := p.sources[0].Restart(0); err != nil {
		t.Fatal(err)
	}
	relay.mustShow("the first source is healthy again", func(s *scraped) bool {
		return s.sum("source_state", "node_id", "dc1", "state", "healthy") == 1
	})
	load.stop()
	dropped := float64((load.count() + 4) / 5)    // 0, 5, 10, ...
	mapped := float64((load.count() + 4 - 1) / 5) // 1, 6, 11, ...
	kept := float64(load.count()) - dropped - mapped
	after := relay.mustShow("everything is relayed and nothing lags", func(s *scraped) bool {
		return s.sum("messages_relayed_total") >= kept && s.sum("lag_records") == 0 && s.sum("window_bytes") == 0 &&
			s.sum("target_flush_batch_size_sum") >= kept && s.sum("source_highwatermark", "node_id", "dc1") == float64(load.count())
	})
	after.mustBe(t, "after", map[string]float64{
		"messages_relayed_total":                            kept,
		"messages_relayed_total source_topic " + topic:      kept,
		"messages_filtered_total filter fives":              dropped,
		"messages_filtered_total filter pipeline":           mapped,
		"messages_filtered_total":                           dropped + mapped,
		"lag_seconds":                                       0,
		"lag_records target_partition 1 source_partition 1": 0,
		"source_highwatermark node_id dc2":                  float64(load.count()),
		"source_lag_records":                                0,
		"source_active node_id dc2":                         1,
		"source_candidate_switches_total":                   1,
		"target_flush_batch_size_sum":                       kept,
		"ready":                                             1,
	})
	if n := ends(t, p.target, topic); float64(n) != kept {
		t.Errorf("the target holds %d records, %v were kept", n, kept)
	}
	if age := after.sum("mark_age_seconds"); age > 30 {
		t.Errorf("the last mark is said to be %v s old", age)
	}
	if after.sum("source_connections_total", "node_id", "dc1") <= before.sum("source_connections_total", "node_id", "dc1") {
		t.Error("new connections are not counted")
	}
	after.mustCount(t, "target_flush_batch_size")
	after.mustCount(t, "target_flush_duration_seconds")
	after.mustBeAll(t)
	aged := after.sum("mark_age_seconds")
	relay.mustShow("the last mark ages at rest", func(s *scraped) bool { return s.sum("mark_age_seconds") > aged })
}

// With transactions, records that go where their content says, one that the target
// never takes, and the target killed: what is counted as relayed is what readers of
// committed records see.
func TestMetricsOfTrouble(t *testing.T) {
	w := newWorld(t)
	f := refusals[1] // a timestamp in the future
	topic, odd := w.refusingTopic(f), w.topic("odd")
	w.create(w.target, odd, 1)
	load := w.loadOf(2_000, func(i int) *kgo.Record {
		r := plainRecord(topic, i, 1, 200)
		if i == 500 {
			f.bad(r)
		}
		return r
	})
	relay := w.run(exactly(pipeline{topics: topic, top: "metrics: { prometheus: {} }",
		output: fmt.Sprintf("on_error: drop\ntopic: '${! if json(\"n\") %% 2 == 0 { %q } else { %q } }'", topic, odd)}))
	s := relay.mustShow("a record is left out, and those behind it are relayed", func(s *scraped) bool {
		return s.sum("messages_filtered_total", "filter", "on_error") >= 1 && s.sum("messages_relayed_total") > 1_000
	})
	s.mustBe(t, "after a refusal", map[string]float64{"target_kafka_errors_total error produce_retries_exhausted": 1, "target_errors_total": 0})
	if s.sum("target_kafka_errors_total", "error", "produce_failed") < 1 || s.sum("target_flush_retries_total") < 1 {
		t.Error("neither the refused batch nor that it is written again is counted")
	}
	w.target.Kill(0)
	s = relay.mustShow("the relay is unready, and behind", func(s *scraped) bool {
		return s.sum("ready") == 0 && s.sum("lag_records") > 2_000 && s.sum("target_errors_total", "error", "connection_failed") >= 1
	})
	if age := s.sum("lag_seconds"); age < time.Since(epoch).Seconds()/2 { // the records say they are an hour old
		t.Errorf("it is said to be %v s behind", age)
	}
	if err := w.target.Restart(0); err != nil {
		t.Fatal(err)
	}
	relay.mustShow("the relay is ready again", func(s *scraped) bool { return s.sum("ready") == 1 })
	load.stop()
	kept := load.count() - 1
	s = relay.mustShow("everything is relayed and nothing lags", func(s *scraped) bool {
		return s.sum("messages_relayed_total") >= float64(kept) && s.sum("lag_records") == 0
	})
	s.mustBe(t, "at the end", map[string]float64{"messages_relayed_total": float64(kept), "lag_seconds": 0})
	relay.terminate(30 * time.Second)
	for parity, name := range []string{topic, odd} {
		rep := w.compare(oracle.Options{Topics: map[string]string{topic: name}, Expect: func(r *kgo.Record) *kgo.Record {
			if r.Offset == 500 || int(r.Offset)%2 != parity {
				return nil
			}
			return r
		}})
		if n := s.sum("messages_relayed_total", "target_topic", name, "target_partition", "0"); !rep.Exact() || rep.Target != int(n) {
			t.Fatalf("%s: %v; %v were counted", name, rep, n)
		}
	}
}
