package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// added are the labels that Benthos and Prometheus add to every series.
var added = []string{"label", "path", "job", "instance"}

// exposed are the series of all metrics, with their labels.
func exposed() map[string][]string {
	out := map[string][]string{}
	for _, m := range All() {
		for name, labels := range m.Series() {
			out[name] = append(slices.Clone(labels), added...)
		}
	}
	return out
}

var (
	selector = regexp.MustCompile(`(kafka_relay_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	grouping = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	template = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}`)
)

// check compares a query with what is exposed, and the texts beside it, which
// may show the labels of what it selects. It returns the series it names.
func check(t *testing.T, query string, texts ...string) (names []string) {
	t.Helper()
	names, wrong := compare(query, texts...)
	for _, w := range wrong {
		t.Errorf("%s: %s", query, w)
	}
	return names
}

func compare(query string, texts ...string) (names, wrong []string) {
	known := slices.Clone(added)
	for _, m := range selector.FindAllStringSubmatch(query, -1) {
		labels, ok := exposed()[m[1]]
		if !ok {
			wrong = append(wrong, "no metric is called "+m[1])
		}
		names, known = append(names, m[1]), append(known, labels...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) {
				wrong = append(wrong, m[1]+" has no label "+l[1])
			}
		}
	}
	if len(names) == 0 {
		wrong = append(wrong, "it asks for no metric of the relay")
	}
	var used []string
	for _, g := range grouping.FindAllStringSubmatch(query, -1) {
		used = append(used, strings.FieldsFunc(g[1], func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	for _, text := range texts {
		for _, m := range template.FindAllStringSubmatch(text, -1) {
			used = append(used, m[1])
		}
	}
	for _, l := range used {
		if !slices.Contains(known, l) {
			wrong = append(wrong, "none of its metrics has the label "+l)
		}
	}
	return names, wrong
}

type (
	dashboard struct {
		Panels     []panel
		Templating struct {
			List []struct{ Type, Definition string }
		}
		Annotations struct {
			List []struct{ Expr, TextFormat string }
		}
	}
	panel struct {
		Title   string
		Targets []struct{ Expr, LegendFormat string }
	}
)

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	b, err := os.ReadFile("../../resources/dashboards/kafka-failover.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The dashboard asks only for what there is, and shows all of it.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	shown := map[string]bool{}
	note := func(names []string) {
		for _, n := range names {
			shown[n] = true
		}
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			note(check(t, q.Expr, q.LegendFormat))
		}
	}
	for _, a := range d.Annotations.List {
		note(check(t, a.Expr, a.TextFormat))
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			check(t, v.Definition)
		}
	}
	for _, m := range All() {
		some := false
		for name := range m.Series() {
			some = some || shown[name]
		}
		if !some {
			t.Errorf("no panel shows %s", m.Name)
		}
	}
}

// Prometheus understands each query of the dashboard, where its tool is installed;
// the alerts' own tests show it of theirs.
func TestDashboardParses(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is missing (Debian: package prometheus)")
	}
	type rule struct{ Record, Expr string }
	var rules []rule
	grafana := strings.NewReplacer("$__rate_interval", "1m", "$job", "a", "$instance", "b")
	for _, p := range readDashboard(t).Panels {
		for _, q := range p.Targets {
			rules = append(rules, rule{fmt.Sprintf("q%d", len(rules)), grafana.Replace(q.Expr)})
		}
	}
	b, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil || len(rules) < 20 {
		t.Fatalf("%d queries: %v\n%s", len(rules), err, out)
	}
}

// The alerts ask only for what there is, each of them is tested, and so with
// series as they are exposed.
func TestAlerts(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	var tests struct {
		Tests []struct {
			InputSeries []struct{ Series string } `yaml:"input_series"`
			Alerts      []struct {
				Name     string `yaml:"alertname"`
				Expected []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	for file, into := range map[string]any{"kafka-failover.yaml": &rules, "kafka-failover_test.yaml": &tests} {
		b, err := os.ReadFile("../../resources/alerts/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}
	fires, rests := map[string]bool{}, map[string]bool{}
	for _, c := range tests.Tests {
		for _, s := range c.InputSeries {
			check(t, s.Series)
		}
		for _, a := range c.Alerts {
			if len(a.Expected) > 0 {
				fires[a.Name] = true
			} else {
				rests[a.Name] = true
			}
		}
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			var texts []string
			for _, text := range r.Annotations {
				texts = append(texts, text)
			}
			check(t, r.Expr, texts...)
			if !fires[r.Alert] || !rests[r.Alert] {
				t.Errorf("%s is not tested both ways: it fires %v, it rests %v", r.Alert, fires[r.Alert], rests[r.Alert])
			}
		}
	}
	if n == 0 {
		t.Error("no rule found: the test looks in the wrong place")
	}
}

// What the tests above rest on: a wrong name, label, grouping or legend is seen.
func TestCompare(t *testing.T) {
	for _, wrong := range [][]string{
		{"kafka_relay_nothing_total"},
		{`kafka_relay_source_active{node="dc1"}`},
		{"sum by (topic) (kafka_relay_messages_relayed_total)"},
		{"kafka_relay_source_active", "{{ $labels.state }}"},
		{"up"},
	} {
		if _, seen := compare(wrong[0], wrong[1:]...); len(seen) != 1 {
			t.Errorf("%v: %v", wrong, seen)
		}
	}
}
