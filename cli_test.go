package kafkafailover_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func cli(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Stdin = strings.NewReader("{}\n")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// The binary is a whole Benthos command line under its own name.
func TestCommands(t *testing.T) {
	help, code := cli(t, "--help")
	if code != 0 {
		t.Fatalf("--help: exit code %d", code)
	}
	for _, want := range []string{"kafka-failover - relays Kafka topics", "run", "lint", "test", "list", "create", "streams", "blobl"} {
		if !strings.Contains(help, want) {
			t.Errorf("--help lacks %q", want)
		}
	}
	for _, not := range []string{"mundane", "Redpanda", "benthos run"} {
		if strings.Contains(help, not) {
			t.Errorf("--help speaks of %q", not)
		}
	}
	if v, code := cli(t, "--version"); code != 0 || !strings.Contains(v, "Version:") || strings.Contains(v, "4.77") {
		t.Errorf("--version: %q, exit code %d", v, code)
	}
	for _, what := range []string{"inputs", "outputs"} {
		if l, code := cli(t, "list", what); code != 0 || !strings.Contains(l, "kafka_failover") {
			t.Errorf("list %s lacks kafka_failover, exit code %d", what, code)
		}
	}
	if c, code := cli(t, "create", "kafka_failover/mapping/kafka_failover"); code != 0 || !strings.Contains(c, "relay_id") {
		t.Errorf("create: exit code %d\n%s", code, c)
	}
	for what, want := range map[string][]string{
		"inputs": {"file", "stdin", "generate", "redis_streams"}, "caches": {"redis", "memory"}, "metrics": {"prometheus"},
		"processors": {"mapping", "unarchive", "branch", "awk"}, "outputs": {"file", "drop", "redis_streams"},
	} {
		l, _ := cli(t, "list", what)
		for _, name := range want {
			if !strings.Contains(l, name) {
				t.Errorf("list %s lacks %s", what, name)
			}
		}
	}
	f := t.TempDir() + "/unit.yaml"
	unit := "pipeline: { processors: [ { mapping: 'root = content().uppercase()' } ] }\ntests:\n  - name: upper\n    input_batch: [ { content: a } ]\n    output_batches: [ [ { content_equals: A } ] ]\n"
	if err := os.WriteFile(f, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := cli(t, "test", f); code != 0 || !strings.Contains(out, "succeeded") {
		t.Errorf("test: exit code %d: %s", code, out)
	}
	if out, code := cli(t, "blobl", "root = 1 + 1"); code != 0 {
		t.Errorf("blobl: exit code %d: %s", code, out)
	}
}

// Nothing under the Redpanda Community License is linked: the tree of
// dependencies holds no such package, and the files that are linked from
// Connect carry other licences.
func TestNoCommunityLicense(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}\n{{end}}{{end}}", "./cmd/kafka-failover", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	if len(files) < 1000 {
		t.Fatalf("only %d files listed", len(files))
	}
	connect := 0
	for _, f := range files {
		if !strings.Contains(f, "redpanda-data") {
			continue
		}
		connect++
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		head := string(b[:min(len(b), 1500)])
		if strings.Contains(head, "Redpanda Community License") || strings.Contains(head, "Licensed as a Redpanda Enterprise file") || strings.Contains(head, "rcl.md") {
			t.Errorf("%s is not freely licensed", f)
		}
	}
	if connect == 0 {
		t.Fatal("no file of Connect is among the dependencies: the test looks in the wrong place")
	}
}

// The example configurations lint, and the simplest one runs as it stands.
func TestExampleConfigurations(t *testing.T) {
	files, err := os.ReadDir("config")
	if err != nil || len(files) == 0 {
		t.Fatalf("config: %v, %d files", err, len(files))
	}
	for _, name := range []string{"DC1", "DC2", "TARGET", "NODE1", "NODE2"} { // passwords have no defaults
		t.Setenv(name+"_PASSWORD", "x")
	}
	converted, err := filepath.Glob("internal/convert/testdata/*.yaml")
	if err != nil || len(converted) < 3 {
		t.Fatalf("%v, %d files", err, len(converted))
	}
	for _, f := range files {
		converted = append(converted, "config/"+f.Name())
	}
	for _, f := range converted {
		if out, code := cli(t, "lint", f); code != 0 {
			t.Errorf("lint %s: %s", f, out)
		}
	}
	w := newWorld(t)
	topic := w.both("orders", 2)
	w.fill(topic, 1_000, 2, 100)
	cmd := []string{
		"--set", "input.kafka_failover.topics=[" + topic + "]",
		"--set", "input.kafka_failover.stop_at_end=true",
		"--set", "output.kafka_failover.relay_id=" + w.name,
		"--set", "output.kafka_failover.progress_topic=" + w.topic("progress"),
		"--set", "http.address=127.0.0.1:0",
	}
	t.Setenv("SOURCE_BROKERS", strings.Join(w.source.Brokers(), ","))
	t.Setenv("TARGET_BROKERS", strings.Join(w.target.Brokers(), ","))
	run := exec.Command(binary, append(append([]string{"run"}, cmd...), "config/relay.yaml")...)
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.mustBeExact(topic)
}

// What only the clusters show to be wrong is refused at start, with one line.
func TestWrongValues(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		p    pipeline
		says string
	}{
		"topic field": {pipeline{topics: w.both("a", 1), output: "topic: x", input: stopAtEnd}, "which are for messages that no kafka_failover input made"},
		"header":      {pipeline{topics: w.both("b", 1), output: `origin_header: ""`, input: stopAtEnd}, "only resume: watermark and delivery: exactly_once can do without"},
	} {
		t.Run(name, func(t *testing.T) {
			relay := w.run(c.p)
			if code := relay.wait(20 * time.Second); code != 1 {
				t.Fatalf("exit code %d, want 1", code)
			}
			relay.mustLog(time.Second, c.says)
		})
	}
}

// Each of the ready filters has tests of its own, and they pass.
func TestReadyFilters(t *testing.T) {
	files, err := filepath.Glob("resources/filters/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d filters, %v", len(files), err)
	}
	out, code := cli(t, append([]string{"test"}, files...)...)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	for _, f := range files {
		if !strings.Contains(out, "Test '"+f+"' succeeded") {
			t.Errorf("%s has no tests:\n%s", f, out)
		}
		if l, code := cli(t, "lint", f); code != 0 {
			t.Errorf("lint %s: exit code %d\n%s", f, code, l)
		}
	}
}
