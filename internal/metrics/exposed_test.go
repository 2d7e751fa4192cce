package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	_ "github.com/redpanda-data/benthos/v4/public/components/pure" // the tracer none
	"github.com/redpanda-data/benthos/v4/public/service"
	_ "github.com/redpanda-data/connect/v4/public/components/prometheus" // the exporter
)

// exporter returns metrics, and what Prometheus sees of them: values by series.
func exporter(t *testing.T) (*service.Metrics, func() map[string]string) {
	t.Helper()
	mux := http.NewServeMux()
	b := service.NewResourceBuilder()
	b.SetHTTPMux(mux)
	if err := b.SetMetricsYAML("prometheus: {}"); err != nil {
		t.Fatal(err)
	}
	res, stop, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop(context.Background()) })
	return res.Metrics(), func() map[string]string {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		out := map[string]string{}
		for line := range strings.Lines(w.Body.String()) {
			if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(line, Prefix) {
				out[strings.NewReplacer(Prefix, "", `label="",path="",`, "", `label="",path=""`, "", `,path=""`, "", `label="",`, "", `label=""`, "", "{}", "").Replace(f[0])] = f[1]
			}
		}
		return out
	}
}

// Each method moves the series that it is to move.
func TestExposed(t *testing.T) {
	m, scrape := exporter(t)
	in, out, pool, filter := NewInput(m), NewOutput(m), NewPool(m), NewFilter(m, "big")
	path := NewPath("a", 1, "b", AnyPartition)
	pool.Begin("dc1", "unknown", "healthy")
	steps := []struct {
		do   func()
		want map[string]string
	}{
		{func() {}, map[string]string{
			`ready`: "0", `source_active{node_id="dc1"}`: "0", `source_state{node_id="dc1",state="unknown"}`: "1", `source_state{node_id="dc1",state="healthy"}`: "0",
			`target_kafka_errors_total{error="produce_failed"}`: "0", `messages_filtered_total{filter="big"}`: "0", `target_flush_batch_size_count`: "0",
		}},
		{func() { in.Ready(true) }, map[string]string{`ready`: "1"}},
		{func() { in.Behind(path, 7, 1500*time.Millisecond) }, map[string]string{
			`lag_records{source_partition="1",source_topic="a",target_partition="auto",target_topic="b"}`: "7",
			`lag_seconds{source_partition="1",source_topic="a",target_partition="auto",target_topic="b"}`: "1.5",
		}},
		{func() { in.Window(3, 9) }, map[string]string{`window_bytes`: "3", `window_limit_bytes`: "9"}},
		{func() { in.Lost("a", 1, 5) }, map[string]string{`messages_lost_total{source_partition="1",source_topic="a"}`: "5"}},
		{func() { in.Loops(2); in.ByPipeline(3); filter.Filtered(4); out.ByPipeline(1); out.Dropped(6) }, map[string]string{
			`messages_filtered_total{filter="loop"}`: "2", `messages_filtered_total{filter="pipeline"}`: "4",
			`messages_filtered_total{filter="big"}`: "4", `messages_filtered_total{filter="on_error"}`: "6",
		}},
		{func() { in.Blocked(2) }, map[string]string{`target_inlet_blocks_total`: "2"}},
		{func() { pool.Changed("dc1", "unknown", "healthy") }, map[string]string{
			`source_state{node_id="dc1",state="unknown"}`: "0", `source_state{node_id="dc1",state="healthy"}`: "1",
			`source_state_changes_total{node_id="dc1",state="healthy"}`: "1",
		}},
		{func() {
			pool.Active("dc1", true)
			pool.Switched()
			pool.Ends("dc1", 8, 3)
			pool.Read("dc1", 5)
			pool.Lagging("dc1")
			pool.NoneHealthy()
		}, map[string]string{
			`source_active{node_id="dc1"}`: "1", `source_candidate_switches_total`: "1", `source_highwatermark{node_id="dc1"}`: "8",
			`source_lag_records{node_id="dc1"}`: "3", `source_records_read_total{node_id="dc1"}`: "5",
			`source_lag_threshold_exceeded_total{node_id="dc1"}`: "1", `source_unhealthy_total`: "1",
		}},
		{func() {
			pool.Connected("dc1")
			pool.ConnectionFailed("dc1")
			pool.FetchFailed("dc1", false)
			pool.FetchFailed("dc1", true)
		}, map[string]string{
			`source_connections_total{node_id="dc1"}`: "1", `source_errors_total{error="connection_failed",node_id="dc1"}`: "1",
			`source_kafka_errors_total{error="fetch_error",node_id="dc1"}`: "1", `source_kafka_errors_total{error="client_closed",node_id="dc1"}`: "1",
		}},
		{func() {
			out.ConnectionFailed(errors.New("refused"), false)
			out.ConnectionFailed(errors.New("bad certificate"), true)
			out.ConnectionFailed(fmt.Errorf("dial: %w", context.Canceled), false)
			out.NoClient()
			out.Refused()
			out.GivenUp()
			out.Retried(3)
		}, map[string]string{
			`target_errors_total{error="connection_failed"}`: "1", `target_errors_total{error="client_creation_failed"}`: "1",
			`target_kafka_errors_total{error="tls_config_error"}`: "1", `target_kafka_errors_total{error="produce_failed"}`: "1",
			`target_kafka_errors_total{error="produce_retries_exhausted"}`: "1", `target_flush_retries_total`: "3",
		}},
		{func() { out.Relayed(NewPath("a", 1, "b", 0), 11) }, map[string]string{
			`messages_relayed_total{source_partition="1",source_topic="a",target_partition="0",target_topic="b"}`: "11",
		}},
		{func() { out.Flushed(1, 0); out.Flushed(5, 3*time.Second); out.Flushed(100_000, time.Hour); out.Tick() }, map[string]string{
			`target_flush_batch_size_bucket{le="1"}`: "1", `target_flush_batch_size_bucket{le="4"}`: "1", `target_flush_batch_size_bucket{le="16"}`: "2",
			`target_flush_batch_size_bucket{le="65536"}`: "2", `target_flush_batch_size_bucket{le="+Inf"}`: "3",
			`target_flush_batch_size_count`: "3", `target_flush_batch_size_sum`: "100006",
			`target_flush_duration_seconds_bucket{le="0.001"}`: "1", `target_flush_duration_seconds_bucket{le="5"}`: "2", `target_flush_duration_seconds_sum`: "3603",
		}},
		{func() { out.Flushed(2, 0); out.Tick(); out.Tick() }, map[string]string{
			`target_flush_batch_size_bucket{le="1"}`: "1", `target_flush_batch_size_bucket{le="4"}`: "2", `target_flush_batch_size_count`: "4",
		}},
	}
	for i, s := range steps {
		s.do()
		got := scrape()
		for series, v := range s.want {
			if got[series] != v {
				t.Errorf("step %d: %s is %q, want %s", i, series, got[series], v)
			}
		}
	}
	if _, ok := scrape()["mark_age_seconds"]; ok {
		t.Error("the age of a mark is shown before there is one")
	}
	out.Marked()
	out.Tick()
	if _, ok := scrape()["mark_age_seconds"]; !ok {
		t.Error("the age of the mark is not shown")
	}
}
