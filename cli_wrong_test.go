package kafkafailover_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/wrong.golden anew")

// wrongConfigurations are pipelines that cannot run: the name of what is wrong,
// and the fields that make it so, within the input, the output or at the top.
var wrongConfigurations = []struct{ name, input, output, top string }{
	{name: "no source", input: "sources: []"},
	{name: "two sources of one name", input: "sources: [ { name: a, seed_brokers: [ h:1 ] }, { name: a, seed_brokers: [ h:3 ] } ]"},
	{name: "a source without a name", input: "sources: [ { seed_brokers: [ h:1 ] } ]"},
	{name: "a source without brokers", input: "sources: [ { name: a, seed_brokers: [] } ]"},
	{name: "no topic", input: "topics: []"},
	{name: "a topic listed twice", input: `topics: [ a, "a:b" ]`},
	{name: "a route of four parts", input: `topics: [ "a:b:c:d" ]`},
	{name: "a partition that is none", input: `topics: [ "a:b:x" ]`},
	{name: "a topic name with a blank", input: `topics: [ "my orders" ]`},
	{name: "no topic, listed or matched", input: "topics: []\nregexp_topics_include: []"},
	{name: "a regular expression that is none", input: "topics: []\nregexp_topics_include: [ 'ok', 'orders(' ]"},
	{name: "start_offset", input: "start_offset: yesterday"},
	{name: "start_offset, a day that is none", input: "start_offset: 2026-01-31T25:00:00Z"},
	{name: "resume", input: "resume: newest"},
	{name: "on_gap", input: "on_gap: rewind"},
	{name: "on_gap with resume: watermark", input: "on_gap: skip\nresume: watermark"},
	{name: "resume: cache without a cache", input: "resume: cache"},
	{name: "a cache without resume: cache", input: "resume_cache: c"},
	{name: "resume_cache, a cache that is none", input: "resume: cache\nresume_cache: c"},
	{name: "resume: cache beside a kafka_failover output", input: "resume: cache\nresume_cache: c", top: "cache_resources: [ { label: c, memory: {} } ]"},
	{name: "resume: cache with a route", input: "resume: cache\nresume_cache: c\ntopics: [ \"a:b\" ]"},
	{name: "resume: cache with a relay name that is no key", input: "resume: cache\nresume_cache: c\nrelay: a/b"},
	{name: "max_in_flight of the input without resume: cache", input: "max_in_flight: 4"},
	{name: "max_in_flight of the input, of nothing", input: "resume: cache\nresume_cache: c\nmax_in_flight: 0"},
	{name: "max_in_flight of the input out of range", input: "resume: cache\nresume_cache: c\nmax_in_flight: 5000"},
	{name: "regexp_topics_include with resume: watermark", input: "topics: []\nregexp_topics_include: [ 'a.*' ]\nresume: watermark"},
	{name: "on_fatal", input: "on_fatal: panic"},
	{name: "metadata", input: "metadata: all"},
	{name: "a size without a number", input: "batch_max_bytes: lots"},
	{name: "a size out of range", input: "fetch_max_bytes: 600MiB"},
	{name: "a time without a unit", input: "fetch_max_wait: 100"},
	{name: "a time that Kafka's client refuses", input: "fetch_max_wait: 5ms"},
	{name: "a batch of nothing", input: "batch_max_records: 0"},
	{name: "health: a time", input: "health: { timeout: soon }"},
	{name: "health: a count", input: "health: { healthy_after: 0 }"},
	{name: "health: a negative lag", input: "health: { lag_threshold: -5 }"},
	{name: "health: a field that is none", input: "health: { every: 3s }"},
	{name: "retry intervals the wrong way round", input: "retry: { initial_interval: 20s }"},
	{name: "an unknown field of the input", input: "group_id: x"},
	{name: "no brokers of the target", output: "seed_brokers: []"},
	{name: "an unknown field of the output", output: "linger_ms: 3"},
	{name: "a relay_id with a slash", output: "relay_id: a/b"},
	{name: "a SASL mechanism that is none", output: "sasl: [ { mechanism: SCRAM, username: a, password: b } ]"},
	{name: "SASL of a source without a user", input: "sources: [ { name: a, seed_brokers: [ h:1 ], sasl: [ { mechanism: PLAIN, password: b } ] } ]"},
	{name: "SASL without a password", output: "sasl: [ { mechanism: SCRAM-SHA-512, username: a } ]"},
	{name: "SASL with password and token", output: "sasl: [ { mechanism: SCRAM-SHA-256, username: a, password: b, token: c } ]"},
	{name: "a token and a user", output: "sasl: [ { mechanism: OAUTHBEARER, username: a, token: c } ]"},
	{name: "OAUTHBEARER without a token", output: "sasl: [ { mechanism: OAUTHBEARER } ]"},
	{name: "SASL twice", output: "sasl: [ { mechanism: PLAIN, username: a, password: b }, { mechanism: PLAIN, username: a, password: b } ]"},
	{name: "tls_server_name without TLS", output: "tls_server_name: a.example"},
	{name: "a file of authorities that is not there", output: "tls: { enabled: true, root_cas_file: /nowhere/ca.pem }"},
	{name: "a client certificate that is none", input: "sources: [ { name: a, seed_brokers: [ h:1 ], tls: { enabled: true, client_certs: [ { cert: x, key: y } ] } } ]"},
	{name: "acks", output: "acks: leader"},
	{name: "acks that are none", output: "acks: quorum"},
	{name: "compression", output: "compression: brotli"},
	{name: "delivery", output: "delivery: at_most_once"},
	{name: "exactly_once without relay_id", output: "delivery: exactly_once"},
	{name: "exactly_once without idempotence", output: "delivery: exactly_once\nrelay_id: r\nidempotent_write: false"},
	{name: "exactly_once, commit_interval too long", output: "delivery: exactly_once\nrelay_id: r\ncommit_interval: 50s"},
	{name: "a progress topic with a blank", output: "progress_topic: a b"},
	{name: "max_message_bytes", output: "max_message_bytes: big"},
	{name: "linger", output: "linger: fast"},
	{name: "max_in_flight of nothing", output: "max_in_flight: 0"},
	{name: "max_in_flight out of range", output: "max_in_flight: 5000"},
	{name: "replication_factor of nothing", output: "create_topics: true\nreplication_factor: 0"},
	{name: "metadata_max_age out of range", output: "metadata_max_age: 2h"},
	{name: "on_error", output: "on_error: skip"},
	{name: "dead letters without a topic", output: "on_error: dead_letter"},
	{name: "a dead letter topic without dead letters", output: "dead_letter_topic: dead"},
	{name: "the dead letter topic is the progress topic", output: "on_error: dead_letter\ndead_letter_topic: kafka_failover_progress"},
	{name: "error_handling.strict", top: "error_handling: { strict: true }"},
	{name: "a buffer", top: "buffer: { memory: {} }"},
	{name: "a filter without a check", top: "pipeline: { processors: [ { kafka_failover_filter: { name: f } } ] }"},
	{name: "a filter whose check does not parse", top: "pipeline: { processors: [ { kafka_failover_filter: { name: f, check: 'this.a ==' } } ] }"},
	{name: "a filter of a reserved name", top: "pipeline: { processors: [ { kafka_failover_filter: { name: pipeline, check: 'true' } } ] }"},
	{name: "a filter named as dead letters are counted", top: "pipeline: { processors: [ { kafka_failover_filter: { name: dead_letter, check: 'true' } } ] }"},
	{name: "a filter's on_error", top: "pipeline: { processors: [ { kafka_failover_filter: { name: f, check: 'true', on_error: ignore } } ] }"},
}

// Every wrong configuration gets one line that says what is wrong: from lint
// where lint can see it, else from run, which then ends with exit code 1. The
// lines are kept in testdata/wrong.golden, to be read by whoever changes them.
func TestWrongConfigurations(t *testing.T) {
	t.Parallel() // topics of its own
	var got strings.Builder
	for _, c := range wrongConfigurations {
		line := wrongLine(t, c.input, c.output, c.top)
		fmt.Fprintf(&got, "%s\n    %s\n", c.name, line)
	}
	const golden = "testdata/wrong.golden"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		wants := strings.Split(string(want), "\n")
		for i, line := range strings.Split(got.String(), "\n") {
			if i >= len(wants) || wants[i] != line {
				t.Errorf("line %d of %s is no longer so; it is now (go test -run TestWrongConfigurations . -rewrite):\n%s", i+1, golden, line)
			}
		}
	}
	if len(wrongConfigurations) < 30 {
		t.Errorf("%d wrong configurations", len(wrongConfigurations))
	}
}

// wrongLine is the one line that a configuration gets.
func wrongLine(t *testing.T, input, output, top string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "wrong.yaml")
	fields := func(own string, defaults ...string) string {
		for _, d := range defaults {
			if name, _, _ := strings.Cut(d, ":"); !strings.Contains("\n"+own, "\n"+name+":") {
				own += "\n" + d
			}
		}
		return indent(own, 4)
	}
	yaml := "input:\n  kafka_failover:\n" + fields(input, "sources: [ { name: a, seed_brokers: [ \"127.0.0.1:1\" ] } ]", "topics: [ x ]", "stop_at_end: true") +
		"output:\n  kafka_failover:\n" + fields(output, "seed_brokers: [ \"127.0.0.1:2\" ]") + top + "\nhttp: { enabled: false }\n"
	if err := os.WriteFile(f, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	text, code := cli(t, "lint", f)
	by := "lint: "
	if code == 0 {
		w := &world{t: t}
		relay := w.start("run", f)
		if code := relay.wait(20 * time.Second); code != 1 {
			t.Errorf("exit code %d of\n%s", code, yaml)
		}
		text, by = relay.logs(), "run: "
	}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && (by == "lint: " || !strings.Contains(line, "level=info") && !strings.Contains(line, "level=warning")) {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 {
		t.Errorf("%d lines for\n%s\n%s", len(lines), yaml, text)
		return by + strings.Join(lines, " | ")
	}
	return by + plainLine(lines[0], f)
}

var (
	lineNumber = regexp.MustCompile(`^\(\d+,\d+\) `)
	logMessage = regexp.MustCompile(`msg="((?:[^"\\]|\\.)*)"`)
)

// plainLine is what a line says, without time, place and path.
func plainLine(line, file string) string {
	line = strings.TrimPrefix(strings.TrimSpace(strings.ReplaceAll(line, file, "")), ":")
	line = strings.Trim(lineNumber.ReplaceAllString(strings.TrimSpace(line), ""), " ")
	if m := logMessage.FindStringSubmatch(line); m != nil {
		line = strings.ReplaceAll(m[1], `\"`, `"`)
	}
	return strings.TrimPrefix(line, "service closing due to: ")
}
