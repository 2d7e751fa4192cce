package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Cluster is a cluster of real Apache Kafka processes in KRaft mode, on free
// ports of the loopback interface.
type Cluster struct {
	Name  string
	dir   string
	nodes []*node

	mu    sync.Mutex
	admin *kadm.Client
}

type node struct {
	cluster *Cluster
	id      int
	port    int
	front   Front
	// listeners are the ports of Options.Listeners.
	listeners map[string]int
	config    string
	log       string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

// Options of a Cluster.
type Options struct {
	Nodes int               // 1 if 0
	Props map[string]string // further broker settings
	Heap  string            // "256m" if empty
	JIT   bool              // the full compiler, for benchmarks
	Front bool              // a second listener, to be reached through a proxy
	// Features are finalized at these levels when storage is formatted.
	Features map[string]int
	// Listeners beside the plaintext one, which Brokers names.
	Listeners []Listener
	archive   string // the file to write the classes to at its end
}

// Front is a listener of a node for clients that come through a proxy: the node
// listens at Behind, and tells those clients that it is to be found at Address.
type Front struct{ Address, Behind string }

// Start starts a cluster and waits until it answers. It ends with the test.
func Start(t testing.TB, name string, o Options) *Cluster {
	t.Helper()
	c, err := Launch(name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cleanup(t) })
	return c
}

func (c *Cluster) cleanup(t testing.TB) {
	if t.Failed() {
		for _, n := range c.nodes {
			t.Logf("log of %s node %d kept in %s", c.Name, n.id, n.log)
		}
		c.Stop()
		return
	}
	c.Stop()
	_ = os.RemoveAll(c.dir)
}

// Launch starts a cluster outside a test; the caller stops it and removes
// Dir.
func Launch(name string, o Options) (*Cluster, error) {
	libs, err := Libs()
	if err != nil {
		return nil, err
	}
	o.Nodes = max(o.Nodes, 1)
	dir, err := os.MkdirTemp("", "kafka-failover-"+name+"-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{Name: name, dir: dir}
	ports, err := FreePorts((4 + len(o.Listeners)) * o.Nodes)
	if err != nil {
		return nil, err
	}
	for i := range o.Nodes {
		n := &node{cluster: c, id: i + 1, port: ports[2*i]}
		if o.Front {
			n.front = Front{fmt.Sprintf("127.0.0.1:%d", ports[2*o.Nodes+2*i]), fmt.Sprintf("127.0.0.1:%d", ports[2*o.Nodes+2*i+1])}
		}
		n.listeners = map[string]int{}
		for k, l := range o.Listeners {
			n.listeners[l.Name] = ports[4*o.Nodes+i*len(o.Listeners)+k]
		}
		if err := n.prepare(libs, o, ports); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		if err := n.start(libs, o); err != nil {
			c.Stop()
			return nil, err
		}
	}
	if err := c.awaitReady(); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// Libs is the folder with Kafka's jars. The error says what is missing.
func Libs() (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", errors.New("java is missing: these tests run real Apache Kafka; install a JRE 17 (apt-get install openjdk-17-jre-headless)")
	}
	_, file, _, _ := runtime.Caller(0)
	libs := filepath.Join(filepath.Dir(file), "..", "..", "resources", "kafka", "libs")
	if jars, _ := filepath.Glob(filepath.Join(libs, "kafka_2.13-*.jar")); len(jars) == 0 {
		return "", errors.New("the jars of Apache Kafka are missing: run `make jars`, which needs Maven (apt-get install maven)")
	}
	return libs, nil
}

func (n *node) prepare(libs string, o Options, ports []int) error {
	dir := filepath.Join(n.cluster.dir, strconv.Itoa(n.id))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	n.config, n.log = filepath.Join(dir, "server.properties"), filepath.Join(dir, "broker.log")
	props := n.properties(o, dir, ports)
	for _, l := range o.Listeners {
		if err := l.configure(props, dir, n.listeners[l.Name]); err != nil {
			return err
		}
	}
	for k, v := range o.Props {
		props[k] = v
	}
	if err := os.WriteFile(n.config, []byte(lines(props)), 0o600); err != nil {
		return err
	}
	args := []string{"kafka.tools.StorageTool", "format", "-t", clusterID(n.cluster.Name, ports[0]), "-c", n.config}
	for name, level := range o.Features {
		args = append(args, "--feature", fmt.Sprintf("%s=%d", name, level))
	}
	cmd := exec.Command("java", n.java(libs, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("formatting storage of %s node %d: %w\n%s", n.cluster.Name, n.id, err, out)
	}
	return nil
}

// clusterID is 22 characters of base64url, one per cluster.
func clusterID(name string, port int) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
	id := fmt.Sprintf("%.12s_%d_", clean, port)
	return (id + strings.Repeat("A", 22))[:21] + "Q"
}

func (n *node) properties(o Options, dir string, ports []int) map[string]string {
	var voters []string
	for i := range o.Nodes {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, ports[2*i+1]))
	}
	replicas := strconv.Itoa(min(o.Nodes, 3))
	props := map[string]string{
		"process.roles":                                               "broker,controller",
		"node.id":                                                     strconv.Itoa(n.id),
		"controller.quorum.voters":                                    strings.Join(voters, ","),
		"listeners":                                                   fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", n.port, ports[2*(n.id-1)+1]),
		"advertised.listeners":                                        fmt.Sprintf("PLAINTEXT://127.0.0.1:%d", n.port),
		"controller.listener.names":                                   "CONTROLLER",
		"listener.security.protocol.map":                              "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                                                    filepath.Join(dir, "data"),
		"default.replication.factor":                                  replicas,
		"offsets.topic.replication.factor":                            replicas,
		"transaction.state.log.replication.factor":                    replicas,
		"transaction.state.log.min.isr":                               "1",
		"share.coordinator.state.topic.replication.factor":            replicas,
		"share.coordinator.state.topic.min.isr":                       "1",
		"offsets.topic.num.partitions":                                "1",
		"transaction.state.log.num.partitions":                        "1",
		"auto.create.topics.enable":                                   "false",
		"group.initial.rebalance.delay.ms":                            "0",
		"broker.session.timeout.ms":                                   "3000",
		"broker.heartbeat.interval.ms":                                "500",
		"log.retention.check.interval.ms":                             "500",
		"log.initial.task.delay.ms":                                   "500",
		"log.cleaner.backoff.ms":                                      "500",
		"log.cleaner.dedupe.buffer.size":                              "4194304",
		"log.segment.delete.delay.ms":                                 "500",
		"num.recovery.threads.per.data.dir":                           "2",
		"num.network.threads":                                         "2",
		"num.io.threads":                                              "4",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
	}
	if o.Front {
		props["listeners"] += ",FRONT://" + n.front.Behind
		props["advertised.listeners"] += ",FRONT://" + n.front.Address
		props["listener.security.protocol.map"] += ",FRONT:PLAINTEXT"
		props["inter.broker.listener.name"] = "PLAINTEXT"
	}
	return props
}

// lines are the settings as a broker reads them.
func lines(props map[string]string) string {
	out := make([]string, 0, len(props))
	for k, v := range props {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return strings.Join(out, "\n") + "\n"
}

func (n *node) java(libs string, args ...string) []string {
	return append([]string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:SharedArchiveFile=" + archiveIn(libs),
		"-Dlog4j2.configurationFile=" + filepath.Join(libs, "..", "log4j2.yaml"),
		"-cp", filepath.Join(libs, "*")}, args...)
}

func (n *node) start(libs string, o Options) error {
	args := n.java(libs, "kafka.Kafka", n.config)
	if o.JIT {
		args = append([]string{}, args[0], "-XX:TieredStopAtLevel=4")
		args = append(args, n.java(libs, "kafka.Kafka", n.config)[2:]...)
	}
	if o.archive != "" {
		args = append([]string{"-XX:ArchiveClassesAtExit=" + o.archive}, slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "-XX:SharedArchiveFile") })...)
	}
	heap := o.Heap
	if heap == "" {
		heap = "256m"
	}
	return n.run(append([]string{"-Xmx" + heap, "-Xms" + heap}, args...))
}

func (n *node) run(args []string) error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("java", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := StartProcess(cmd); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd, n.done = cmd, done
	return nil
}

func (n *node) signal(s os.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = n.cmd.Process.Signal(s)
}

func (n *node) wait() {
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	<-done
}

const readyTimeout = 60 * time.Second

// awaitReady waits until every node answers with all brokers in its metadata.
func (c *Cluster) awaitReady() error {
	for _, n := range c.nodes {
		if err := n.awaitReady(len(c.nodes)); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) awaitReady(brokers int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr()))
	if err != nil {
		return err
	}
	defer cl.Close()
	deadline := time.Now().Add(readyTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		m, err := metadata(ctx, cl)
		cancel()
		if err == nil && len(m.Brokers) >= brokers && m.ControllerID >= 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it knows %d of %d brokers", len(m.Brokers), brokers)
		}
		select {
		case <-n.done:
			out, _ := os.ReadFile(n.log)
			return fmt.Errorf("%s node %d ended while starting:\n%s", n.cluster.Name, n.id, tail(out))
		default:
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(n.log)
			return fmt.Errorf("%s node %d does not answer after %s (%w):\n%s", n.cluster.Name, n.id, readyTimeout, err, tail(out))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-4000):] }

func (n *node) addr() string { return fmt.Sprintf("127.0.0.1:%d", n.port) }

// Brokers are the addresses of all nodes.
func (c *Cluster) Brokers() []string {
	out := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = n.addr()
	}
	return out
}

// Fronts are the nodes' listeners behind proxies, with Options.Front.
func (c *Cluster) Fronts() []Front {
	out := make([]Front, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = n.front
	}
	return out
}

// Kill ends node i with SIGKILL and waits until it is gone.
func (c *Cluster) Kill(i int) {
	c.nodes[i].signal(syscall.SIGKILL)
	c.nodes[i].wait()
}

// Pause stops node i (SIGSTOP): it holds its connections and says nothing.
func (c *Cluster) Pause(i int) { c.nodes[i].signal(syscall.SIGSTOP) }

// Resume lets a paused node go on.
func (c *Cluster) Resume(i int) { c.nodes[i].signal(syscall.SIGCONT) }

// Restart starts a killed node with the data it has, and waits until it
// answers.
func (c *Cluster) Restart(i int) error {
	n := c.nodes[i]
	n.mu.Lock()
	args := n.cmd.Args[1:]
	n.mu.Unlock()
	if err := n.run(args); err != nil {
		return err
	}
	return n.awaitReady(1)
}

// Revive restarts the nodes that are dead.
func (c *Cluster) Revive() error {
	for i, n := range c.nodes {
		n.mu.Lock()
		done := n.done
		n.mu.Unlock()
		select {
		case <-done:
			if err := c.Restart(i); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

// Stop kills all nodes.
func (c *Cluster) Stop() {
	c.mu.Lock()
	if c.admin != nil {
		c.admin.Close()
		c.admin = nil
	}
	c.mu.Unlock()
	for _, n := range c.nodes {
		if n.cmd != nil {
			n.signal(syscall.SIGKILL)
			n.wait()
		}
	}
}

// Remove deletes the cluster's data after Stop.
func (c *Cluster) Remove() { _ = os.RemoveAll(c.dir) }

// Client returns a new client of the cluster, closed with it.
func (c *Cluster) Client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// Admin returns the cluster's admin client, closed when the cluster stops.
func (c *Cluster) Admin(t testing.TB) *kadm.Client {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.admin == nil {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.MetadataMinAge(10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		c.admin = kadm.NewClient(cl)
	}
	return c.admin
}

// AwaitTopic waits until every node knows the topic with all its leaders.
func (c *Cluster) AwaitTopic(t testing.TB, topic string) {
	t.Helper()
	for _, n := range c.nodes {
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr()))
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(readyTimeout)
		for !known(cl, topic) {
			if time.Now().After(deadline) {
				t.Fatalf("topic %s is not known to %s node %d", topic, c.Name, n.id)
			}
			time.Sleep(10 * time.Millisecond)
		}
		cl.Close()
	}
}

func known(cl *kgo.Client, topic string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m, err := metadata(ctx, cl, topic)
	if err != nil || len(m.Topics) != 1 || m.Topics[0].ErrorCode != 0 || len(m.Topics[0].Partitions) == 0 {
		return false
	}
	for _, p := range m.Topics[0].Partitions {
		if p.Leader < 0 {
			return false
		}
	}
	return true
}

// metadata asks a broker: kadm would answer from a cache.
func metadata(ctx context.Context, cl *kgo.Client, topics ...string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	return req.RequestWith(ctx, cl)
}
