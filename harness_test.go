package kafkafailover_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// binary is the relay, built once for all tests; scratch is a folder for what else
// all of them share.
var binary, scratch string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kafka-failover-bin-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary, scratch = filepath.Join(dir, "kafka-failover"), dir
	build := exec.Command("go", "build", "-o", binary, "./cmd/kafka-failover")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the binary: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	for _, c := range shared.clusters {
		c.Stop()
		if code == 0 {
			c.Remove()
		}
	}
	return code
}

// full tells whether the counts of the full run are wanted.
func full() bool { return os.Getenv("KAFKA_FAILOVER_FULL") != "" }

// count picks the short or the full count of a scenario.
func count(short, long int) int {
	if full() {
		return long
	}
	return short
}

// shared are the single-node clusters that most tests use, each with topics
// and relay_ids of its own. Whoever kills one restarts it.
var shared struct {
	sync.Mutex
	clusters map[string]*kafkatest.Cluster
}

func sharedCluster(t testing.TB, name string) *kafkatest.Cluster {
	t.Helper()
	return shareCluster(t, name, kafkatest.Options{
		Heap: "384m", Front: true, Listeners: secureListeners(),
		Props: map[string]string{"connections.max.reauth.ms": "3000"},
	})
}

func shareCluster(t testing.TB, name string, o kafkatest.Options) *kafkatest.Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if c := shared.clusters[name]; c != nil {
		if err := c.Revive(); err != nil { // a test that failed may have left it dead
			t.Fatal(err)
		}
		return c
	}
	c, err := kafkatest.Launch(name, o)
	if err != nil {
		t.Fatal(err)
	}
	if shared.clusters == nil {
		shared.clusters = map[string]*kafkatest.Cluster{}
	}
	shared.clusters[name] = c
	return c
}

// world is a source and a target with topics of one test's own.
type world struct {
	t              testing.TB
	source, target *kafkatest.Cluster
	name           string // unique; relay_id and prefix of topics
}

var worlds struct {
	sync.Mutex
	n int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	worlds.Lock()
	worlds.n++
	n := worlds.n
	worlds.Unlock()
	return &world{t: t, source: sharedCluster(t, "src"), target: sharedCluster(t, "dst"), name: fmt.Sprintf("w%d", n)}
}

func (w *world) topic(base string) string { return w.name + "." + base }

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// create makes a topic on a cluster; configs are key, value, key, value.
func (w *world) create(c *kafkatest.Cluster, topic string, partitions int32, configs ...string) {
	w.t.Helper()
	m := map[string]*string{}
	for i := 0; i+1 < len(configs); i += 2 {
		m[configs[i]] = kadm.StringPtr(configs[i+1])
	}
	if _, err := c.Admin(w.t).CreateTopic(testContext(w.t), partitions, -1, m, topic); err != nil {
		w.t.Fatalf("creating %s on %s: %v", topic, c.Name, err)
	}
	c.AwaitTopic(w.t, topic)
}

// both makes a topic on source and target.
func (w *world) both(base string, partitions int32, configs ...string) string {
	w.t.Helper()
	w.create(w.source, w.topic(base), partitions, configs...)
	w.create(w.target, w.topic(base), partitions, configs...)
	return w.topic(base)
}

// fill writes n records of size bytes over the partitions of a source topic.
func (w *world) fill(topic string, n, partitions, size int) {
	w.t.Helper()
	w.fillFrom(topic, 0, n, partitions, size)
}

func (w *world) fillFrom(topic string, from, n, partitions, size int) {
	w.t.Helper()
	w.fillOf(n, func(i int) *kgo.Record { return plainRecord(topic, from+i, partitions, size) })
}

// fillOf writes n records to the source.
func (w *world) fillOf(n int, record func(int) *kgo.Record) {
	w.t.Helper()
	cl := w.source.Client(w.t, kgo.MaxBufferedRecords(200_000), kgo.ProducerLinger(5*time.Millisecond))
	for i := range n {
		cl.Produce(context.Background(), record(i), func(r *kgo.Record, err error) {
			if err != nil {
				w.t.Errorf("filling %s: %v", r.Topic, err)
			}
		})
	}
	if err := cl.Flush(testContext(w.t)); err != nil {
		w.t.Fatal(err)
	}
}

// load is a producer that writes to the source until it is stopped.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}
	n      int
	over   atomic.Bool // the test has failed: what becomes of the rest is no matter
}

func (l *load) stop()      { l.cancel(); <-l.done }
func (l *load) count() int { return l.n }

// load writes records of size bytes over the partitions at a rate.
func (w *world) load(topic string, partitions, size, perSecond int) *load {
	return w.loadOf(perSecond, func(i int) *kgo.Record { return plainRecord(topic, i, partitions, size) })
}

func (w *world) loadOf(perSecond int, record func(int) *kgo.Record) *load {
	w.t.Helper()
	return generate(w.t, perSecond, record, w.source.Client(w.t, kgo.ProducerLinger(0))) // evenly
}

// generate writes the same records through every client, at a rate.
func generate(t testing.TB, perSecond int, record func(int) *kgo.Record, clients ...*kgo.Client) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, done: make(chan struct{})}
	failed := func(_ *kgo.Record, err error) {
		if err != nil && !l.over.Load() {
			t.Errorf("writing load: %v", err)
		}
	}
	go func() {
		defer close(l.done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for {
			select {
			case <-ctx.Done():
				if l.over.Load() {
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				for _, cl := range clients {
					failed(nil, cl.Flush(ctx))
				}
				return
			case <-tick.C:
			}
			for l.n < int(time.Since(began).Seconds()*float64(perSecond)) {
				for _, cl := range clients {
					cl.Produce(context.Background(), record(l.n), failed)
				}
				l.n++
			}
		}
	}()
	t.Cleanup(func() {
		l.over.Store(t.Failed())
		l.stop()
	})
	return l
}

// epoch is the time of record 0.
var epoch = time.Now().Add(-time.Hour).Truncate(time.Millisecond)

func plainRecord(topic string, i, partitions, size int) *kgo.Record {
	value := fmt.Appendf(make([]byte, 0, size), `{"n":%d,"pad":"`, i)
	for len(value) < size-2 {
		value = append(value, byte('a'+(i+len(value))%26))
	}
	value = append(value, '"', '}')
	return &kgo.Record{
		Topic: topic, Partition: int32(i % partitions),
		Key: fmt.Appendf(nil, "key-%d", i), Value: value, Timestamp: epoch.Add(time.Duration(i) * time.Millisecond),
		Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Appendf(nil, "%d", i)}},
	}
}

func (w *world) produce(c *kafkatest.Cluster, records ...*kgo.Record) {
	w.t.Helper()
	if err := c.Client(w.t).ProduceSync(testContext(w.t), records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// compare runs the oracle.
func (w *world) compare(o oracle.Options) *oracle.Report {
	w.t.Helper()
	rep, err := oracle.Compare(testContext(w.t), cluster(w.t, w.source), cluster(w.t, w.target), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return rep
}

func (w *world) mustBeExact(topics ...string) {
	w.t.Helper()
	if rep := w.compare(oracle.Options{Topics: same(topics...)}); !rep.Exact() {
		w.t.Fatal(rep)
	}
}

func (w *world) mustBeFaithful(topics ...string) *oracle.Report {
	w.t.Helper()
	rep := w.compare(oracle.Options{Topics: same(topics...)})
	if !rep.Faithful() {
		w.t.Fatal(rep)
	}
	return rep
}

func same(topics ...string) map[string]string {
	m := map[string]string{}
	for _, t := range topics {
		m[t] = t
	}
	return m
}

func cluster(t testing.TB, c *kafkatest.Cluster) *kafka.Cluster {
	t.Helper()
	a, err := kafka.Conn{Name: c.Name, SeedBrokers: c.Brokers(), ClientID: "test", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute}.Admin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// pipeline is a relay's configuration. The fields left empty are left out.
type pipeline struct {
	topics     string // as YAML list items, comma separated
	input      string // further input fields, one per line
	output     string
	processors string // YAML of pipeline.processors
	threads    int
	top        string // further top level fields
	outputYAML string // instead of the kafka_failover output
	inputYAML  string
}

func (w *world) yaml(p pipeline) string {
	if p.threads == 0 {
		p.threads = 2
	}
	in := fmt.Sprintf("kafka_failover:\n    sources: [ { name: dc1, seed_brokers: [ %q ] } ]\n    topics: [ %s ]\n%s",
		strings.Join(w.source.Brokers(), ","), p.topics, indent(p.input, 4))
	if p.inputYAML != "" {
		in = p.inputYAML
	}
	out := fmt.Sprintf("kafka_failover:\n    seed_brokers: [ %q ]\n    relay_id: %s\n    progress_topic: %s\n%s",
		strings.Join(w.target.Brokers(), ","), w.name, w.topic("progress"), indent(p.output, 4))
	if p.outputYAML != "" {
		out = p.outputYAML
	}
	y := "input:\n  " + in + "\noutput:\n  " + out + "\n"
	if p.processors != "" {
		y += fmt.Sprintf("pipeline:\n  threads: %d\n  processors:\n%s\n", p.threads, indent(p.processors, 4))
	}
	return y + "logger: { level: INFO }\n" + p.top + "\n"
}

func indent(s string, n int) string {
	if s == "" {
		return ""
	}
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+pad) + "\n"
}

// proc is a running relay.
type proc struct {
	t    testing.TB
	cmd  *exec.Cmd
	http string
	done chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

func (p *proc) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *proc) logs() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// run starts the binary on a configuration.
func (w *world) run(p pipeline) *proc { return w.runYAML(w.yaml(p)) }

func (w *world) runYAML(yaml string, args ...string) *proc {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "relay.yaml")
	return w.runFile(file, yaml, args...)
}

func (w *world) runFile(file, yaml string, args ...string) *proc {
	w.t.Helper()
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		w.t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
	yaml += fmt.Sprintf("http: { address: %q }\n", addr)
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		w.t.Fatal(err)
	}
	r := w.start(append(append([]string{"run"}, args...), file)...)
	r.http = "http://" + addr
	return r
}

// start starts the binary; it ends with the test.
func (w *world) start(args ...string) *proc {
	w.t.Helper()
	r := &proc{t: w.t, done: make(chan struct{}), cmd: exec.Command(binary, args...)}
	r.cmd.Stdout, r.cmd.Stderr = r, r
	if err := kafkatest.StartProcess(r.cmd); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.done)
	}()
	w.t.Cleanup(func() {
		r.kill()
		if w.t.Failed() {
			w.t.Logf("relay log:\n%s", lastLines(r.logs(), 60))
		}
	})
	return r
}

func lastLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *proc) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// wait returns the exit code.
func (p *proc) wait(timeout time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.t.Fatalf("the relay did not end within %s", timeout)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *proc) terminate(timeout time.Duration) int {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	return p.wait(timeout)
}

// ready asks /ready: the status code and the body.
func (p *proc) ready() (int, string) {
	resp, err := http.Get(p.http + "/ready")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// eventually waits until cond is true.
func eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", timeout, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *proc) mustLog(timeout time.Duration, text string) {
	p.t.Helper()
	eventually(p.t, timeout, fmt.Sprintf("the log says %q", text), func() bool { return strings.Contains(p.logs(), text) })
}

// ends sums the end offsets of a topic.
func ends(t testing.TB, c *kafkatest.Cluster, topic string) int64 {
	t.Helper()
	l, err := c.Admin(t).ListEndOffsets(context.Background(), topic)
	if err != nil || l.Error() != nil {
		return -1
	}
	var n int64
	l.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

func (w *world) awaitTarget(topic string, n int64, timeout time.Duration) {
	w.t.Helper()
	awaitEnds(w.t, w.target, topic, n, timeout)
}

// awaitEnds waits until a topic's end offsets add up to n.
func awaitEnds(t testing.TB, c *kafkatest.Cluster, topic string, n int64, timeout time.Duration) {
	t.Helper()
	eventually(t, timeout, fmt.Sprintf("topic %s of %s reaches %d records", topic, c.Name, n), func() bool { return ends(t, c, topic) >= n })
}
