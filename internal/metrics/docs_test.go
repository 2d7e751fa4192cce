package metrics

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the table of docs/metrics.md anew")

const (
	docs      = "../../docs/metrics.md"
	tableFrom = "<!-- The table is written by `make docs`. -->\n"
	tableTo   = "\n- **`node_id`**"
)

func table() string {
	var b strings.Builder
	b.WriteString("\n| metric | kind | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range All() {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, labels, m.Meaning)
	}
	return b.String()
}

// docs/metrics.md says what the code says.
func TestTableIsCurrent(t *testing.T) {
	b, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), tableFrom)
	is, after, ok2 := strings.Cut(rest, tableTo)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table", docs)
	}
	want := table()
	if is == want {
		return
	}
	if !*rewrite {
		t.Fatalf("the table of %s is not current: run `make docs`", docs)
	}
	if err := os.WriteFile(docs, []byte(before+tableFrom+want+tableTo+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Names and labels are API: kaf-relay's dashboards go on working.
func TestKafRelayNames(t *testing.T) {
	for name, labels := range map[string]string{
		"source_errors_total": "node_id,error", "source_kafka_errors_total": "node_id,error", "source_unhealthy_total": "",
		"source_highwatermark": "node_id", "source_connections_total": "node_id", "source_lag_threshold_exceeded_total": "node_id",
		"source_candidate_switches_total": "", "target_errors_total": "error", "target_kafka_errors_total": "error",
		"messages_relayed_total":  "source_topic,source_partition,target_topic,target_partition",
		"messages_filtered_total": "filter", "target_inlet_blocks_total": "", "target_flush_batch_size": "",
		"target_flush_duration_seconds": "", "target_flush_retries_total": "",
	} {
		found := false
		for _, m := range All() {
			if m.Name == "kafka_relay_"+name {
				found = true
				if got := strings.Join(m.Labels, ","); got != labels {
					t.Errorf("%s has labels %s, want %s", m.Name, got, labels)
				}
			}
		}
		if !found {
			t.Errorf("%s is missing", name)
		}
	}
}
