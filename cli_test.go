package kafkafailover_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func cli(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
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
	if b, code := cli(t, "blobl", "--help"); code != 0 || !strings.Contains(b, "blobl") {
		t.Errorf("blobl: exit code %d", code)
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
	for _, f := range files {
		if out, code := cli(t, "lint", "config/"+f.Name()); code != 0 {
			t.Errorf("lint config/%s: %s", f.Name(), out)
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

// A wrong configuration gets one clear line from lint.
func TestLint(t *testing.T) {
	const in = "input: { kafka_failover: { sources: [ { name: a, seed_brokers: [ h:1 ] } ], topics: [ x ] } }\n"
	const out = "output: { kafka_failover: { seed_brokers: [ h:2 ] } }\n"
	for name, c := range map[string]struct{ yaml, says string }{
		"two of one name": {strings.Replace(in, "{ name: a, seed_brokers: [ h:1 ] }", "{ name: a, seed_brokers: [ h:1 ] }, { name: a, seed_brokers: [ h:3 ] }", 1) + out, "two sources share a name"},
		"no topic":        {strings.Replace(in, "[ x ]", "[]", 1) + out, "topics is empty"},
		"no source":       {strings.Replace(in, "[ { name: a, seed_brokers: [ h:1 ] } ]", "[]", 1) + out, "sources is empty"},
		"relay_id":        {in + strings.Replace(out, "seed", "relay_id: a/b, seed", 1), "relay_id may hold"},
		"acks":            {in + strings.Replace(out, "seed", "acks: leader, seed", 1), "needs idempotent_write: false"},
		"unknown field":   {in + strings.Replace(out, "seed", "linger_ms: 3, seed", 1), "linger_ms"},
		"no brokers":      {in + "output: { kafka_failover: {} }\n", "seed_brokers is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			f := t.TempDir() + "/c.yaml"
			if err := os.WriteFile(f, []byte(c.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			text, code := cli(t, "lint", f)
			if code == 0 || !strings.Contains(text, c.says) {
				t.Fatalf("exit code %d: %s", code, text)
			}
		})
	}
}

// What lint cannot see is refused at start, with one line.
func TestWrongValues(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		p    pipeline
		says string
	}{
		"route":        {pipeline{topics: `"a:b:c:d"`}, "too many parts"},
		"partition":    {pipeline{topics: `"a:b:x"`}, "neither a partition number nor auto"},
		"twice":        {pipeline{topics: "a, a:b"}, "twice"},
		"topic name":   {pipeline{topics: `"a b"`}, "is not a topic name"},
		"start offset": {pipeline{topics: "a", input: "start_offset: yesterday"}, "neither earliest, latest nor a time"},
		"size":         {pipeline{topics: "a", input: "batch_max_bytes: lots"}, "is not a size"},
		"duration":     {pipeline{topics: "a", output: "linger: fast"}, "write a number and a unit"},
		"range":        {pipeline{topics: "a", output: "max_in_flight: 0"}, "must be from 1 to 1024"},
		"topic field":  {pipeline{topics: w.both("a", 1), output: "topic: x", input: stopAtEnd}, "which are for messages that no kafka_failover input made"},
		"header":       {pipeline{topics: w.both("b", 1), output: `origin_header: ""`, input: stopAtEnd}, "only resume: watermark can do without"},
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
