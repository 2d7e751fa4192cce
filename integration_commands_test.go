package kafkafailover_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// command runs the binary to its end and returns both outputs and the code.
func command(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Start(); e != nil {
		t.Fatal(e)
	}
	stuck := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	_ = cmd.Wait()
	stuck.Stop()
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// file writes a configuration and returns its path.
func (w *world) file(yaml string) string {
	w.t.Helper()
	f := filepath.Join(w.t.TempDir(), "relay.yaml")
	if err := os.WriteFile(f, []byte(yaml), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// checked is what `check --json` prints.
type checked struct {
	OK       bool
	Findings []struct{ Subject, Check, Result, Detail string }
	Source   string
	Starts   []struct {
		Partition, Target, Why string
		Offset                 int64
		LogStart               int64 `json:"log_start"`
		LogEnd                 int64 `json:"log_end"`
	}
}

func (w *world) check(yaml string, args ...string) checked {
	w.t.Helper()
	out, errs, code := command(w.t, append(append([]string{"check", "--json"}, args...), w.file(yaml))...)
	var c checked
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		w.t.Fatalf("exit code %d: %v\n%s\n%s", code, err, out, errs)
	}
	if want := map[bool]int{true: 0, false: 1}[c.OK]; code != want {
		w.t.Fatalf("exit code %d with ok: %v", code, c.OK)
	}
	return c
}

// has tells whether a finding of this level says all of the texts.
func (c checked) has(level, subject string, texts ...string) bool {
findings:
	for _, f := range c.Findings {
		if f.Result != level || f.Subject != subject {
			continue
		}
		for _, text := range texts {
			if !strings.Contains(f.Check+": "+f.Detail, text) {
				continue findings
			}
		}
		return true
	}
	return false
}

func (c checked) must(t *testing.T, level, subject string, texts ...string) {
	t.Helper()
	if !c.has(level, subject, texts...) {
		t.Errorf("no finding %s of %s says %q:\n%+v", level, subject, texts, c.Findings)
	}
}

// A good configuration is found good, before the first start and later, and
// nothing is written for it.
func TestCheck(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("check", 3)
	p.fillAll(topic, 0, 900, 3, 100)
	conf := p.config(pipeline{topics: topic, input: stopAtEnd})
	c := p.check(p.yaml(conf))
	if !c.OK || c.Source != "dc1" || len(c.Starts) != 3 {
		t.Fatalf("%+v", c)
	}
	for _, s := range c.Starts {
		if s.Offset != 0 || s.LogEnd != 300 || s.Why != "empty target" {
			t.Errorf("%+v", s)
		}
	}
	c.must(t, "ok", "dc1", "connection", "cluster ID")
	c.must(t, "ok", "dc2", "topic "+topic, "3 partitions", "max.message.bytes 1.0 MiB", "CreateTime", "kept for 7 days")
	c.must(t, "ok", "sources", "agreement", "dc2 holds the same records as dc1 at 48 sampled offsets")
	c.must(t, "ok", "target", "progress", "does not exist yet")
	c.must(t, "ok", "start", "reads dc1 first, 900 offsets of 3 partitions")
	if l, err := p.target.Admin(t).ListTopics(testContext(t)); err != nil || l.Has(p.topic("progress")) {
		t.Fatalf("check created the progress topic, or %v", err)
	}

	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	p.fillAll(topic, 900, 300, 3, 100)
	before := ends(t, p.target, p.topic("progress"))
	c = p.check(p.yaml(conf))
	if !c.OK || len(c.Starts) != 3 {
		t.Fatalf("%+v", c)
	}
	for _, s := range c.Starts {
		if s.Offset != 300 || s.LogEnd != 400 || s.Why != "mark and proven suffix" {
			t.Errorf("%+v", s)
		}
	}
	c.must(t, "ok", "target", "progress", "marks of 3 of 3 source partitions")
	if after := ends(t, p.target, p.topic("progress")); after != before {
		t.Fatalf("check wrote %d marks", after-before)
	}
	text, _, code := command(t, "check", p.file(p.yaml(conf)))
	for _, want := range []string{"ok", "agreement", "A start would read dc1", topic + "/2", "mark and proven suffix"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q, exit code %d:\n%s", want, code, text)
		}
	}
}

// Whatever would keep the relay from running is found, and named.
func TestCheckFindsTrouble(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	good := p.all("trouble", 2)
	p.fillAll(good, 0, 400, 2, 100)

	one := p.config(pipeline{topics: good})
	one.inputYAML = strings.Replace(one.inputYAML, p.brokers[1], "127.0.0.1:1", 1)
	c := p.check(p.yaml(one))
	c.must(t, "fail", "dc2", "connection", "127.0.0.1:1", "cannot be reached")
	c.must(t, "ok", "start", "reads dc1 first")

	one.inputYAML = strings.Replace(one.inputYAML, p.brokers[0], "127.0.0.1:1", 1)
	p.check(p.yaml(one)).must(t, "fail", "start", "no source can be read")

	c = p.check(p.yaml(p.config(pipeline{topics: p.topic("nowhere")})))
	c.must(t, "fail", "dc1", "has no topic", p.topic("nowhere"))

	twice := p.config(pipeline{topics: good})
	twice.inputYAML = strings.Replace(twice.inputYAML, p.brokers[1], p.brokers[0], 1)
	p.check(p.yaml(twice)).must(t, "fail", "sources", "are one cluster")

	same := p.config(pipeline{topics: good})
	same.outputYAML = fmt.Sprintf("kafka_failover:\n    seed_brokers: [ %q ]", p.brokers[0])
	p.check(p.yaml(same)).must(t, "fail", "dc1", "source and target are the same cluster")

	p.check(p.yaml(p.config(pipeline{topics: `"` + good + ":" + p.topic("missing") + `"`}))).
		must(t, "fail", "target", "does not exist", "kafka-topics.sh --bootstrap-server")

	few := p.topic("few")
	p.create(p.target, few, 1)
	p.check(p.yaml(p.config(pipeline{topics: `"` + good + ":" + few + `"`}))).must(t, "fail", "target", "has 1 partitions and needs 2")

	p.check(p.yaml(p.config(pipeline{topics: good, output: "topic: x"}))).must(t, "fail", "target", "which are for messages that no kafka_failover input made")

	short := p.all("short", 1)
	p.on(0).fillFrom(short, 0, 100, 1, 100)
	p.on(1).fillFrom(short, 0, 60, 1, 100)
	conf := p.config(pipeline{topics: short, input: stopAtEnd})
	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	c = p.check(p.yaml(conf))
	c.must(t, "warn", "dc2", "position", "ends at offset 60, the relay stands at 100")
	c.must(t, "ok", "dc1", "position")

	differs := p.all("differs", 1)
	p.on(0).fillFrom(differs, 0, 50, 1, 100)
	p.on(1).fillFrom(differs, 1, 50, 1, 100)
	p.check(p.yaml(p.config(pipeline{topics: differs}))).must(t, "fail", "sources", "agreement", differs+"/0, offset", "they are not copies of each other")

	trimmed := p.all("trimmed", 1)
	p.fillAll(trimmed, 0, 100, 1, 100)
	conf = p.config(pipeline{topics: trimmed, input: stopAtEnd})
	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	p.fillAll(trimmed, 100, 100, 1, 100)
	deleteTo(t, p, trimmed, 150)
	c = p.check(p.yaml(conf))
	c.must(t, "fail", "dc1", "position", "no longer has records", "100 to 149")
	c.must(t, "fail", "start", "no source can be read on")

	sized := p.topic("sized")
	p.eachSource(func(i int) { p.create(p.sources[i], sized, 1, "max.message.bytes", "8000000") })
	p.create(p.target, sized, 1, "message.timestamp.type", "LogAppendTime", "max.message.bytes", "500000")
	p.fillAll(sized, 0, 10, 1, 100)
	c = p.check(p.yaml(p.config(pipeline{topics: sized})))
	c.must(t, "warn", "target", "LogAppendTime")
	c.must(t, "warn", "target", "source dc1 takes batches of up to 7.6 MiB")
	c.must(t, "warn", "target", "max_message_bytes of the output is 1.0 MiB")
	if !c.OK {
		t.Errorf("warnings alone fail: %+v", c.Findings)
	}

	old := p.topic("old")
	retention := fmt.Sprint(time.Since(epoch).Milliseconds() * 10 / 9) // most of it is over, whenever the test runs
	p.eachSource(func(i int) { p.create(p.sources[i], old, 1, "retention.ms", retention, "segment.ms", "86400000") })
	p.create(p.target, old, 1, "retention.ms", "600000")
	p.fillAll(old, 0, 10, 1, 100) // records are an hour old, and more
	c = p.check(p.yaml(p.config(pipeline{topics: old})))
	c.must(t, "warn", "target", "would be gone at once")
	c.must(t, "warn", "dc1", "start soon, or raise retention.ms")

	parts := p.topic("parts")
	p.create(p.sources[0], parts, 3)
	p.create(p.sources[1], parts, 2)
	p.create(p.target, parts, 3)
	p.check(p.yaml(p.config(pipeline{topics: parts}))).must(t, "warn", "sources", "dc1 has 3 partitions and dc2 2")
}

func deleteTo(t testing.TB, p *poolWorld, topic string, to int64) {
	t.Helper()
	p.eachSource(func(i int) {
		var o kadm.Offsets
		o.AddOffset(topic, 0, to, -1)
		if _, err := p.sources[i].Admin(t).DeleteRecords(testContext(t), o); err != nil {
			t.Fatal(err)
		}
	})
}

// The connection tests of the plugins say what check says.
func TestConnectionTestSaysWhatCheckSays(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("conntest", 1)
	p.on(0).fillFrom(topic, 0, 50, 1, 100)
	p.on(1).fillFrom(topic, 1, 50, 1, 100)
	conf := p.config(pipeline{topics: topic})
	conf.top = ""
	s, err := p.stream(conf).Build()
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.ConnectionTest(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil && strings.Contains(r.Err.Error(), "they are not copies of each other") {
			return
		}
	}
	t.Errorf("%+v", results)
}

// stated is what `status --json` prints.
type stated struct {
	Sources []struct {
		Name, State, Reason string
		Active              bool
		Weight, Lag         int64
	}
	Partitions []struct {
		Partition, Target  string
		Position, End, Lag int64
	}
	TargetError string `json:"target_error"`
}

func (w *world) status(yaml string) (stated, int) {
	w.t.Helper()
	out, errs, code := command(w.t, "status", "--json", w.file(yaml))
	var s stated
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		w.t.Fatalf("exit code %d: %v\n%s\n%s", code, err, out, errs)
	}
	return s, code
}

// status tells how a relay stands that runs, that is stopped, and whose sources
// are in trouble.
func TestStatus(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("status", 2)
	p.fillAll(topic, 0, 400, 2, 100)
	conf := p.config(pipeline{topics: topic})
	yaml := p.yaml(conf)

	s, code := p.status(yaml)
	if code != 0 || len(s.Partitions) != 2 || s.Partitions[0].Position != -1 || s.Partitions[0].Lag != 200 {
		t.Fatalf("before the first start: exit code %d, %+v", code, s)
	}
	relay := p.run(conf)
	p.awaitTarget(topic, 400, time.Minute)
	eventually(t, 10*time.Second, "status shows the target level", func() bool {
		s, code = p.status(yaml)
		return code == 0 && s.Partitions[0].Lag+s.Partitions[1].Lag == 0
	})
	if s.Sources[0].State != "healthy" || !s.Sources[0].Active || s.Sources[0].Weight != 400 || s.Sources[1].Active || s.Partitions[1].Position != 200 {
		t.Fatalf("%+v", s)
	}
	if code := relay.terminate(20 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	p.on(0).fillFrom(topic, 400, 100, 2, 100) // dc2 falls behind, and nobody relays
	if s, code = p.status(yaml); code != 0 || s.Sources[1].Lag != 100 || s.Partitions[0].Lag != 50 {
		t.Fatalf("exit code %d, %+v", code, s)
	}
	one := conf
	one.inputYAML = strings.Replace(one.inputYAML, p.brokers[0], "127.0.0.1:1", 1)
	if s, code = p.status(p.yaml(one)); code != 0 || s.Sources[0].State != "unhealthy" || s.Sources[0].Weight != -1 || !strings.Contains(s.Sources[0].Reason, "127.0.0.1:1") {
		t.Fatalf("exit code %d, %+v", code, s)
	}
	text, _, _ := command(t, "status", p.file(p.yaml(one)))
	for _, want := range []string{"unhealthy", "127.0.0.1:1", topic + "/1", "200"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
	one.inputYAML = strings.Replace(one.inputYAML, p.brokers[1], "127.0.0.1:1", 1)
	if _, code = p.status(p.yaml(one)); code != 1 {
		t.Errorf("without any source: exit code %d", code)
	}
	lost := conf
	lost.outputYAML = "kafka_failover:\n    seed_brokers: [ '127.0.0.1:1' ]"
	if s, code = p.status(p.yaml(lost)); code != 1 || !strings.Contains(s.TargetError, "127.0.0.1:1") {
		t.Errorf("without a target: exit code %d, %+v", code, s)
	}

	watch := p.world.start("status", "--watch", "--json", "--every", "100ms", p.file(yaml))
	eventually(t, 20*time.Second, "three looks", func() bool { return strings.Count(watch.logs(), "\n") >= 3 })
	if code := watch.terminate(10 * time.Second); code != 0 {
		t.Errorf("interrupted: exit code %d", code)
	}
	for line := range strings.Lines(watch.logs()) {
		var s stated
		if err := json.Unmarshal([]byte(line), &s); err != nil || len(s.Sources) != 2 {
			t.Errorf("%v in %s", err, line)
		}
	}
}

// verified is what `verify --json` prints.
type verified struct {
	Equal    bool
	Source   string
	Warnings []string
	Total    struct {
		Expected, Found, Filtered, Lost, Pending, Duplicated, Reordered, Altered, Misplaced, Foreign, Failed, Expired int64
		Examples                                                                                                      []string
	}
}

func (w *world) verify(yaml string, args ...string) verified {
	w.t.Helper()
	out, errs, code := command(w.t, append(append([]string{"verify", "--json"}, args...), w.file(yaml))...)
	var v verified
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		w.t.Fatalf("exit code %d: %v\n%s\n%s", code, err, out, errs)
	}
	if want := map[bool]int{true: 0, false: 1}[v.Equal]; code != want {
		w.t.Fatalf("exit code %d with equal: %v", code, v.Equal)
	}
	return v
}

// verify proves a copy, filtered or not, and finds what was planted.
func TestVerify(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	plain, filtered, keyed := p.all("plain", 3), p.all("filtered", 2), p.all("keyed", 3)
	for _, topic := range []string{plain, filtered, keyed} {
		p.fillAll(topic, 0, 3_000, 2, 100)
	}
	proc := "- mapping: |\n    root = if @kafka_topic == \"" + filtered + "\" && this.n % 3 != 0 { deleted() }\n    meta n = if @kafka_topic == \"" + filtered + "\" { \"changed\" }"
	conf := p.config(pipeline{topics: fmt.Sprintf("%s, %s, %q", plain, filtered, keyed+":"+keyed+":auto"), input: stopAtEnd, processors: proc, threads: 4})
	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	yaml := p.yaml(conf)
	v := p.verify(yaml, "--pipeline")
	if !v.Equal || v.Source != "dc1" || v.Total.Expected != 7_000 || v.Total.Filtered != 2_000 || len(v.Warnings) != 0 {
		t.Errorf("%+v", v)
	}
	if v := p.verify(yaml, "--pipeline", "--source", "dc2"); !v.Equal || v.Source != "dc2" {
		t.Errorf("%+v", v)
	}
	if v := p.verify(yaml); v.Equal || v.Total.Lost != 2_000 || v.Total.Altered != 1_000 || !strings.Contains(strings.Join(v.Warnings, " "), "without --pipeline") {
		t.Errorf("without the pipeline: %+v", v)
	}
	if v := p.verify(yaml, "--pipeline", "--since", epoch.Add(2*time.Second).UTC().Format(time.RFC3339Nano)); !v.Equal || v.Total.Expected != 2_333 && v.Total.Expected != 2_334 {
		t.Errorf("since: %+v", v)
	}

	alone := p.yaml(p.config(pipeline{topics: plain}))
	p.produce(p.target, &kgo.Record{Topic: plain, Partition: 1, Value: []byte("stranger")})
	if v := p.verify(alone); v.Equal || v.Total.Foreign != 1 || len(v.Total.Examples) != 1 || !strings.Contains(v.Total.Examples[0], plain+"/1 offset 1500") {
		t.Errorf("a stranger: %+v", v)
	}
	p.fillAll(plain, 3_000, 200, 2, 100)
	if v := p.verify(alone); v.Total.Pending != 200 || v.Total.Lost != 0 {
		t.Errorf("not relayed yet: %+v", v)
	}
	text, _, code := command(t, "verify", p.file(alone))
	if code != 1 || !strings.Contains(text, "The target differs from dc1.") || !strings.Contains(text, "stranger") && !strings.Contains(text, "foreign: target") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
	if _, errs, code := command(t, "verify", "--source", "dc9", p.file(alone)); code != 1 || !strings.Contains(errs, `"dc9" names no source`) {
		t.Errorf("an unknown source: exit code %d, %s", code, errs)
	}
}

// verify --pipeline does not run again what may change something elsewhere,
// unless it is told to, and warns of what may come out differently.
func TestVerifyWithImpureProcessors(t *testing.T) {
	p := newPool(t, 1)
	topic := p.all("impure", 1)
	p.fillAll(topic, 0, 10, 1, 100)
	yaml := p.yaml(p.config(pipeline{
		topics: topic, processors: "- mapping: 'root.at = now()'\n- resource: x\n- resource: known\n- cache: { resource: c, operator: set, key: '${! @kafka_offset }', value: x }\n- select_parts: { parts: [ 0 ] }\n- mapping: 'root.from = @kafka_source'",
		top: "processor_resources: [ { label: known, mapping: 'root.id = uuid_v4()' } ]\ncache_resources: [ { label: c, memory: {} } ]",
	}))
	other := filepath.Join(t.TempDir(), "other.yaml")
	if err := os.WriteFile(other, []byte("processor_resources: [ { label: x, mapping: 'root = this' } ]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := command(t, "verify", "--pipeline", "-r", other, p.file(yaml))
	if code != 1 || !strings.Contains(errs, "would run the processor cache, the processor resource x again") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	v := p.verify(yaml, "--pipeline", "--allow-side-effects", "-r", other)
	warned := strings.Join(v.Warnings, " ")
	for _, want := range []string{"the processor cache, the processor resource x ran again", "the function now", "the function uuid_v4", "the metadata kafka_source", "the processor select_parts"} {
		if !strings.Contains(warned, want) {
			t.Errorf("not warned of %s: %s", want, warned)
		}
	}
}

// A record that a processor fails on keeps the relay from going on, and verify
// says so; errors in the log leave the report alone on stdout.
func TestVerifyFailedRecords(t *testing.T) {
	w := newWorld(t)
	topic := w.both("failed", 1)
	w.produce(w.source, &kgo.Record{Topic: topic, Value: []byte("{}")}, &kgo.Record{Topic: topic, Value: []byte("no JSON")})
	stops := pipeline{topics: topic, processors: "- mapping: 'root = this'"}
	if v := w.verify(w.yaml(stops), "--pipeline"); v.Equal || v.Total.Pending != 1 || v.Total.Failed != 1 {
		t.Errorf("on_error: stop: %+v", v)
	}
	drops := stops
	drops.output, drops.input = "on_error: drop", stopAtEnd
	w.once(drops, 0)
	if v := w.verify(w.yaml(drops), "--pipeline"); !v.Equal || v.Total.Filtered != 1 {
		t.Errorf("on_error: drop: %+v", v)
	}
}

// Processors that verify cannot apply are noticed, wherever they are.
func TestVerifyProcessorsElsewhere(t *testing.T) {
	w := newWorld(t)
	topic := w.both("elsewhere", 1)
	w.fill(topic, 10, 1, 100)
	base := w.yaml(pipeline{topics: topic})
	source := fmt.Sprintf("kafka_failover: { sources: [ { name: dc1, seed_brokers: [ %q ] } ], topics: [ %s ] }", w.source.Brokers()[0], topic)
	_, rest, _ := strings.Cut(base, "output:")
	for name, input := range map[string]string{
		"its own":  "input: { " + source + ", processors: [ { mapping: 'root = deleted()' } ] }\n",
		"around":   "input: { broker: { inputs: [ { " + source + " } ] }, processors: [ { resource: drop } ] }\nprocessor_resources: [ { label: drop, mapping: 'root = deleted()' } ]\n",
		"resource": "input: { resource: in }\ninput_resources: [ { label: in, " + source + ", processors: [ { mapping: 'root = deleted()' } ] } ]\n",
	} {
		_, errs, code := command(t, "verify", "--pipeline", w.file(input+"output:"+rest))
		if code != 1 || !strings.Contains(errs, "has processors of its own, or a component around it has") {
			t.Errorf("%s: exit code %d: %s", name, code, errs)
		}
		if v := w.verify(input + "output:" + rest); !strings.Contains(strings.Join(v.Warnings, " "), "without --pipeline") {
			t.Errorf("%s: not warned: %+v", name, v)
		}
	}
}

// verify while the relay runs, and after it was killed: nothing is lost, what
// was written twice is counted.
func TestVerifyLive(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	topic := p.all("live", 2)
	load := p.loadAll(topic, 2, 100, 5_000)
	conf := p.config(pipeline{topics: topic})
	yaml := p.yaml(conf)
	for range 3 {
		relay := p.run(conf)
		was := ends(t, p.target, topic)
		p.awaitTarget(topic, was+5_000, time.Minute)
		if v := p.verify(yaml, "--pipeline"); v.Total.Lost+v.Total.Reordered+v.Total.Altered+v.Total.Foreign+v.Total.Misplaced != 0 {
			t.Fatalf("while it runs: %+v", v)
		}
		relay.kill()
	}
	load.stop()
	conf.input += "\n" + stopAtEnd
	conf.inputYAML = strings.Replace(conf.inputYAML, "topics:", stopAtEnd+"\n    topics:", 1)
	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	v := p.verify(yaml, "--pipeline")
	if v.Total.Lost+v.Total.Pending+v.Total.Reordered+v.Total.Altered+v.Total.Foreign != 0 || v.Total.Expected != int64(load.count()) {
		t.Fatalf("after three kills: %+v", v)
	}
}

// The memory that verify takes does not grow with the number of records.
func TestVerifyMemory(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	small, large := count(600_000, 1_000_000), count(1_500_000, 10_000_000)
	peak := func(base string, n int) int64 {
		topic := w.both(base, 4)
		w.fillOf(n, func(i int) *kgo.Record {
			r := plainRecord(topic, i, 4, 40)
			r.Timestamp = epoch.Add(time.Duration(i) * 100 * time.Microsecond) // ten million of them in the past
			return r
		})
		conf := pipeline{topics: topic, input: stopAtEnd + "\nmetadata: none"}
		if code := w.run(conf).wait(5 * time.Minute); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		var out bytes.Buffer
		cmd := exec.Command(binary, "verify", "--json", w.file(w.yaml(conf)))
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// Not by rusage: what it says of a child includes what its parent had.
		var most int64
		for {
			select {
			case err := <-done:
				var v verified
				if err := errors.Join(err, json.Unmarshal(out.Bytes(), &v)); err != nil || v.Total.Found != int64(n) {
					t.Fatalf("%v: %+v", err, v)
				}
				return most
			case <-time.After(5 * time.Millisecond):
				most = max(most, peakMemory(cmd.Process.Pid))
			}
		}
	}
	a, b := peak("small", small), peak("large", large)
	t.Logf("peak memory: %d MiB for %d records, %d MiB for %d", a, small, b, large)
	if b > a*5/4 {
		t.Errorf("peak memory grows from %d MiB to %d MiB", a, b)
	}
}

// peakMemory is the most that a process has had resident, in MiB; 0 if it is gone.
func peakMemory(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	_, _ = fmt.Sscan(rest, &kib)
	return kib >> 10
}

// The commands see a configuration as run does: environment, files of
// variables, --set and resources.
func TestCommandsSeeWhatRunSees(t *testing.T) {
	w := newWorld(t)
	topic := w.both("seen", 1)
	w.fill(topic, 100, 1, 100)
	dir := t.TempDir()
	write := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	env := write("vars.env", "SEEN_TARGET="+w.target.Brokers()[0]+"\n")
	res := write("res.yaml", "output_resources:\n  - label: to_target\n    kafka_failover: { seed_brokers: [ \"${SEEN_TARGET}\" ], progress_topic: "+w.topic("progress")+", relay_id: from_resource }\n"+
		"input_resources:\n  - label: from_source\n    kafka_failover: { sources: [ { name: dc1, seed_brokers: [ \"${SEEN_SOURCE}\" ] } ], topics: [ "+topic+" ], relay: to_target, stop_at_end: true }\n")
	main := write("main.yaml", "input: { resource: from_source }\noutput: { resource: to_target }\nhttp: { enabled: false }\n")
	t.Setenv("SEEN_SOURCE", w.source.Brokers()[0])
	if out, errs, code := command(t, "run", "-e", env, "-r", res, main); code != 0 {
		t.Fatalf("run: exit code %d\n%s%s", code, out, errs)
	}
	for _, name := range []string{"check", "status", "verify"} {
		out, errs, code := command(t, name, "-e", env, "-r", res, main)
		if code != 0 || !strings.Contains(out, topic) {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, errs)
		}
	}
	inline := write("inline.yaml", "input: { kafka_failover: { sources: [ { name: dc1, seed_brokers: [ \"${SEEN_SOURCE}\" ] } ], topics: [ nowhere ] } }\noutput: { kafka_failover: { seed_brokers: [ \"${SEEN_TARGET:h:1}\" ], progress_topic: "+w.topic("progress")+", relay_id: from_resource } }\n")
	out, errs, code := command(t, "verify", "-e", env, "--set", "input.kafka_failover.topics=["+topic+"]", inline)
	if code != 0 {
		t.Errorf("--set: exit code %d\n%s%s", code, out, errs)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"lint":     {[]string{"check", write("bad.yaml", "input: { kafka_failover: { sources: [], topics: [ a ] } }\noutput: { kafka_failover: { seed_brokers: [ h:1 ] } }\n")}, "sources is empty"},
		"no relay": {[]string{"status", write("other.yaml", "input: { generate: { mapping: 'root = 1' } }\noutput: { drop: {} }\n")}, "no kafka_failover input"},
		"unpaired": {[]string{"verify", write("unpaired.yaml", "input: { kafka_failover: { sources: [ { name: a, seed_brokers: [ h:1 ] } ], topics: [ a ] } }\noutput: { drop: {} }\n")}, "no kafka_failover output belongs"},
		"no file":  {[]string{"check", filepath.Join(dir, "none.yaml")}, "none.yaml"},
		"twice":    {[]string{"check", write("twice.yaml", "input: { broker: { inputs: [ { kafka_failover: { sources: [ { name: a, seed_brokers: [ h:1 ] } ], topics: [ a ] } }, { kafka_failover: { sources: [ { name: a, seed_brokers: [ h:1 ] } ], topics: [ b ] } } ] } }\noutput: { kafka_failover: { seed_brokers: [ h:2 ] } }\n")}, "give each pair of input and output a `relay` name of its own"},
		"two outs": {[]string{"check", write("outs.yaml", "input: { kafka_failover: { sources: [ { name: a, seed_brokers: [ h:1 ] } ], topics: [ a ] } }\noutput: { broker: { outputs: [ { kafka_failover: { seed_brokers: [ h:2 ] } }, { kafka_failover: { seed_brokers: [ h:3 ] } } ] } }\n")}, "two kafka_failover outputs share one relay"},
		"no args":  {[]string{"check"}, "wants one configuration"},
		"buffer":   {[]string{"check", write("buffer.yaml", "buffer: { memory: {} }\ninput: { kafka_failover: { sources: [ { name: a, seed_brokers: [ h:1 ] } ], topics: [ a ] } }\noutput: { kafka_failover: { seed_brokers: [ h:1 ] } }\n")}, "remove the buffer"},
	} {
		out, errs, code := command(t, c.args...)
		if code != 1 || !strings.Contains(out+errs, c.says) {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, errs)
		}
	}
}

// What convert makes of a kaf-relay configuration runs, and does what it said, with
// passwords that come from the environment.
func TestConvertedRuns(t *testing.T) {
	w := newWorld(t)
	topic := w.both("converted", 2)
	w.fill(topic, 1_000, 2, 100)
	w.user(w.source, w.name, "reader-secret")
	t.Setenv("DC1_PASSWORD", "reader-secret")
	t.Setenv("TARGET_PASSWORD", plainPassword)
	secure := func(mechanism, user, password string) string {
		return fmt.Sprintf("enable_tls = true\nca_cert_path = %q\nenable_auth = true\nsasl_mechanism = %q\nusername = %q\npassword = %q\n", theKeys().ca, mechanism, user, password)
	}
	toml := fmt.Sprintf("[app]\nlog_level = \"info\"\n[topics]\n%q = %q\n[source_pool]\ninitial_offset = \"start\"\nhealthcheck_interval = \"1s\"\nrequest_timeout = \"1s\"\n[[sources]]\nname = \"dc1\"\nservers = [%q]\n%s[target]\nservers = [%q]\n%senable_idempotency = true\ncommit_ack_type = \"cluster\"\ncompression = \"zstd\"\n",
		topic, topic, w.source.At(atSCRAM)[0], secure("SCRAM-SHA-256", w.name, "reader-secret"), w.target.At(atSCRAM)[0], secure("PLAIN", plainUser, plainPassword))
	f := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(f, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml, errs, code := command(t, "convert", "--stop-at-end", f)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	file := w.file(yaml)
	own := []string{"--set", "output.kafka_failover.relay_id=" + w.name, "--set", "output.kafka_failover.progress_topic=" + w.topic("progress"), "--set", "http.enabled=false"}
	if out, errs, code := command(t, append(append([]string{"run"}, own...), file)...); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	if out, errs, code := command(t, append(append([]string{"verify"}, own[:4]...), file)...); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	if n := ends(t, w.target, topic); n != 1_000 {
		t.Errorf("%d records", n)
	}
}

// A bounded run shows on a terminal how far it has come, and says at its end
// what it has relayed.
func TestProgressOfBoundedRun(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	topic := w.both("bounded", 2)
	w.fill(topic, 3_000, 2, 100)
	conf := pipeline{topics: topic, input: stopAtEnd, processors: "- sleep: { duration: 300us }"}
	file := w.file(w.yaml(conf) + "http: { enabled: false }\n")
	// script(1) gives the relay a terminal.
	out, err := exec.Command("script", "-qec", binary+" run "+file, "/dev/null").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(out)
	for _, want := range []string{"relaying", "%", "/3000", "records/s", "Reached the end of topic " + topic + ": 3000 records read"} {
		if !strings.Contains(text, want) {
			t.Errorf("the terminal shows no %q:\n%s", want, lastLines(text, 30))
		}
	}
	plain, errs, code := command(t, "run", "--set", "output.kafka_failover.relay_id=again", "--set", "input.kafka_failover.resume=start", file)
	if code != 0 || strings.Contains(plain+errs, "relaying ") || !strings.Contains(plain+errs, "Reached the end of topic") {
		t.Errorf("without a terminal: exit code %d\n%s%s", code, plain, errs)
	}
}

// The demo plays by itself, in time, and shows a switch and the proof.
func TestDemo(t *testing.T) {
	w := newWorld(t)
	d := w.start("demo")
	if code := d.wait(20 * time.Second); code != 0 {
		t.Fatalf("exit code %d\n%s", code, d.logs())
	}
	for _, want := range []string{"kafka_failover:", "dc1 is killed", "Switched from source dc1 to dc2", "lost 0, duplicated 0, reordered 0, altered 0, foreign 0", "Source and target are equal."} {
		if !strings.Contains(d.logs(), want) {
			t.Errorf("the demo lacks %q:\n%s", want, d.logs())
		}
	}
}

// demo --keep leaves brokers up that the commands it names can look at.
func TestDemoKeep(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	d := w.start("demo", "--keep")
	d.mustLog(30*time.Second, "kafka-failover run ")
	ran := 0
	for line := range strings.Lines(d.logs()) {
		args, ok := strings.CutPrefix(strings.TrimSpace(line), "kafka-failover ")
		if !ok || strings.HasPrefix(args, "run ") {
			continue
		}
		ran++
		out, errs, code := command(t, strings.Fields(args)...)
		dead := strings.HasPrefix(args, "check") // dc1 is dead, and check says so
		if (code != 0) != dead || !strings.Contains(out, "orders") {
			t.Errorf("%s: exit code %d\n%s%s", args, code, out, errs)
		}
	}
	if ran != 3 {
		t.Errorf("%d commands are named, want check, status and verify", ran)
	}
	if code := d.terminate(10 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Beside a relay that runs at the edge of its sources, check and status see
// nothing amiss.
func TestCheckAndStatusBesideARelay(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)
	topic := p.all("edge", 2)
	load := p.loadAll(topic, 2, 100, 4_000)
	conf := p.config(pipeline{topics: topic})
	yaml := p.yaml(conf)
	relay := p.run(conf)
	p.awaitTarget(topic, 2_000, time.Minute)
	for range 10 {
		c := p.check(yaml)
		if !c.OK || !c.has("ok", "start", "reads dc1 first") {
			t.Fatalf("%+v", c.Findings)
		}
		if s, code := p.status(yaml); code != 0 || s.Sources[0].State != "healthy" {
			t.Fatalf("exit code %d: %+v", code, s)
		}
	}
	load.stop()
	if code := relay.terminate(20 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What check says of each source is what a start on that source would meet.
func TestCheckForesees(t *testing.T) {
	t.Parallel() // topics of its own
	p := newPool(t, 2)

	grown := p.topic("grown") // dc2 alone has a second partition, and the target has not
	p.create(p.sources[0], grown, 1)
	p.create(p.sources[1], grown, 2)
	p.create(p.target, grown, 1)
	p.on(0).fillFrom(grown, 0, 10, 1, 100)
	p.on(1).fillFrom(grown, 0, 10, 1, 100)
	p.check(p.yaml(p.config(pipeline{topics: grown}))).must(t, "fail", "target", "has 1 partitions and needs 2")

	mixed := p.config(pipeline{topics: p.all("mixed", 1)})
	mixed.inputYAML = strings.Replace(mixed.inputYAML, p.brokers[1], strings.Join(p.target.Brokers(), ","), 1)
	p.check(p.yaml(mixed)).must(t, "fail", "dc2", "source and target are the same cluster")

	gap := p.all("gap", 1)
	p.fillAll(gap, 0, 100, 1, 100)
	conf := p.config(pipeline{topics: gap, input: stopAtEnd + "\non_gap: skip"})
	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	p.fillAll(gap, 100, 100, 1, 100)
	one := &poolWorld{world: p.world, sources: p.sources[:1]}
	deleteTo(t, one, gap, 150)
	c := p.check(p.yaml(conf))
	if c.Source != "dc2" || c.Starts[0].Offset != 100 {
		t.Errorf("dc1 has lost records, dc2 has not: %+v", c)
	}
	deleteTo(t, p, gap, 150)
	c = p.check(p.yaml(conf))
	c.must(t, "warn", "start", "gap", "leave out offsets 100 to 149 of partition "+gap+"/0")
	if !c.OK || c.Starts[0].Offset != 150 {
		t.Errorf("both have lost records: %+v", c)
	}

	differs := p.all("ignored", 1)
	p.on(0).fillFrom(differs, 0, 50, 1, 100)
	p.on(1).fillFrom(differs, 1, 50, 1, 100)
	c = p.check(p.yaml(p.config(pipeline{topics: differs, input: "on_divergence: ignore"})))
	c.must(t, "warn", "sources", "on_divergence: ignore", "they are not copies of each other")
	if !c.OK {
		t.Errorf("on_divergence: ignore: %+v", c.Findings)
	}

	unsure := p.all("unsure", 1)
	p.fillAll(unsure, 0, 100, 1, 100)
	conf = p.config(pipeline{topics: unsure, input: stopAtEnd + "\non_unverified: stop"})
	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	deleteTo(t, p, unsure, 100)
	for i := range p.sources { // the marks know dc1 only
		c = p.check(p.yaml(conf))
		if i == 1 {
			c.must(t, "fail", "dc2", "on_unverified: stop")
			c.must(t, "ok", "dc1", "can be read on")
		}
	}
}

// status goes by the mark that was written last, waits for nobody's transaction,
// and shows the marks where no source answers.
func TestStatusInTrouble(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("shown", 2)
	p.fillAll(topic, 0, 100, 2, 100)
	conf := p.config(pipeline{topics: topic, input: stopAtEnd})
	if code := p.run(conf).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	p.eachSource(func(i int) { // only partition 0 goes on, and only dc2 is there
		p.produce(p.sources[i], &kgo.Record{Topic: topic, Partition: 0, Value: []byte(`{"n":1}`), Timestamp: epoch})
	})
	second := conf
	second.inputYAML = strings.Replace(conf.inputYAML, p.brokers[0], "127.0.0.1:1", 1)
	if code := p.run(second).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if s, _ := p.status(p.yaml(conf)); s.Sources[0].Active || !s.Sources[1].Active {
		t.Errorf("dc2 was read last: %+v", s.Sources)
	}

	producer := p.target.Client(t, kgo.TransactionalID(p.name+"-other"))
	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := producer.ProduceSync(testContext(t), &kgo.Record{Topic: topic, Value: []byte("open")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if s, code := p.status(p.yaml(conf)); code != 0 || len(s.Partitions) != 2 || s.Partitions[0].Position != 51 {
		t.Errorf("beside an open transaction: exit code %d, %+v", code, s)
	}
	if err := producer.EndTransaction(testContext(t), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}

	second.inputYAML = strings.Replace(second.inputYAML, p.brokers[1], "127.0.0.1:1", 1)
	s, code := p.status(p.yaml(second))
	if code != 1 || len(s.Partitions) != 2 || s.Partitions[0].Position != 51 || s.Partitions[0].End != -1 || s.TargetError != "" {
		t.Errorf("without any source: exit code %d, %+v", code, s)
	}
}
