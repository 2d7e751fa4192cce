// Command quick measures the relay against a bare franz-go loop, interleaved,
// on one source and one target broker of its own: records per second, CPU per
// million records, and their ratios; each with and without transactions. All
// start from a topic of records of 200 B in 4 partitions, with the same settings
// of client and collector; the time before a target's first records is left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

const (
	partitions = 4
	size       = 200
	gogc       = "GOGC=400"
	// interval is the relay's default commit_interval.
	interval = 200 * time.Millisecond
)

var profiles string

func main() {
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		exit(bareLoop(os.Args[2], os.Args[3], os.Args[4], os.Args[5], len(os.Args) > 6))
	}
	records := flag.Int("records", 2_000_000, "records per round")
	rounds := flag.Int("rounds", 5, "rounds, interleaved")
	relay := flag.String("relay", "bin/kafka-failover", "the relay's binary")
	least := flag.Float64("least", 0.6, "fail below this ratio of rates")
	slack := flag.Float64("slack", 0.05, "fail if transactions cost the relay more than this beyond what they cost the bare loop, as shares of the rate without")
	only := flag.String("only", "", "run the contenders with this in their name, and compare nothing")
	flag.StringVar(&profiles, "profile", "", "directory for CPU profiles of the relay")
	flag.Parse()
	exit(run(*relay, *records, *rounds, *least, *slack, *only))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type contender struct {
	name  string
	start func(topic string, round int) *exec.Cmd
	rate  []float64 // records per second
	cpu   []float64 // seconds per million
}

func run(relay string, records, rounds int, least, slack float64, only string) error {
	dir, err := os.MkdirTemp("", "kafka-failover-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	opts := kafkatest.Options{Heap: "768m", JIT: true}
	src, err := kafkatest.Launch("benchsrc", opts)
	if err != nil {
		return err
	}
	defer src.Remove()
	defer src.Stop()
	dst, err := kafkatest.Launch("benchdst", opts)
	if err != nil {
		return err
	}
	defer dst.Remove()
	defer dst.Stop()
	if err := load(src, records); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s, t := src.Brokers()[0], dst.Brokers()[0]
	bare := func(extra ...string) func(string, int) *exec.Cmd {
		return func(topic string, _ int) *exec.Cmd {
			return exec.Command(self, append([]string{"bare", s, t, topic, strconv.Itoa(records)}, extra...)...)
		}
	}
	relayed := func(delivery string) func(string, int) *exec.Cmd {
		return func(topic string, round int) *exec.Cmd {
			file := filepath.Join(dir, topic+".yaml")
			const quiet = "http: { enabled: false }\n"
			yaml := fmt.Appendf(nil, relayYAML, s, topic, t, delivery, round, delivery)
			if profiles == "" {
				yaml = append(yaml, quiet...)
			} else {
				yaml = append(yaml, profileYAML...)
			}
			_ = os.WriteFile(file, yaml, 0o600)
			return exec.Command(relay, "run", file)
		}
	}
	cs := []*contender{
		{name: "bare loop", start: bare()},
		{name: "relay", start: relayed("at_least_once")},
		{name: "bare loop, transactions", start: bare("transactions")},
		{name: "relay, exactly_once", start: relayed("exactly_once")},
	}
	for round := range rounds + 1 { // the first one warms the brokers up
		for _, c := range cs {
			if !strings.Contains(c.name, only) {
				continue
			}
			rate, cpu, err := measure(dst, c, round, records)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", c.name, round, err)
			}
			if round > 0 {
				c.rate, c.cpu = append(c.rate, rate), append(c.cpu, cpu)
			}
			fmt.Printf("round %d %-24s %9.0f records/s %6.2f CPU-s/M\n", round, c.name, rate, cpu)
		}
	}
	if only != "" {
		return nil
	}
	return report(cs[0], cs[1], cs[2], cs[3], least, slack)
}

// profileYAML makes the relay tell where its time goes.
const profileYAML = `
http: { enabled: true, address: "127.0.0.1:6060", debug_endpoints: true }
`

// profile takes a CPU profile of a relay under load.
func profile(name string) {
	resp, err := http.Get("http://127.0.0.1:6060/debug/pprof/profile?seconds=2")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(profiles, name+".prof"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer f.Close()
	_, _ = io.Copy(f, resp.Body)
}

const relayYAML = `
logger: { level: WARN }
input:
  kafka_failover:
    sources: [ { name: dc1, seed_brokers: [ %q ] } ]
    topics: [ "src:%s" ]
    metadata: none
    stop_at_end: true
output:
  kafka_failover:
    seed_brokers: [ %q ]
    relay_id: %s.%d
    delivery: %s
`

func report(bare, relay, bareTx, relayTx *contender, least, slack float64) error {
	fmt.Println("medians:")
	for _, c := range []*contender{bare, relay, bareTx, relayTx} {
		fmt.Printf("  %-24s %9.0f records/s %6.2f CPU-s/M\n", c.name, median(c.rate), median(c.cpu))
	}
	rate, cpu := ratios(relay.rate, bare.rate), ratios(relay.cpu, bare.cpu)
	kept, cost := ratios(relayTx.rate, relay.rate), ratios(bareTx.rate, bare.rate)
	fmt.Printf("relay / bare loop, median of rounds: rate %.2f (min %.2f, max %.2f), CPU per record %.2f\n", median(rate), slices.Min(rate), slices.Max(rate), median(cpu))
	fmt.Printf("with transactions / without: relay %.2f (min %.2f, max %.2f), bare loop %.2f (min %.2f, max %.2f)\n",
		median(kept), slices.Min(kept), slices.Max(kept), median(cost), slices.Min(cost), slices.Max(cost))
	var failed error
	if median(rate) < least {
		failed = fmt.Errorf("the relay reaches %.2f of the bare loop's rate, and must reach %.2f", median(rate), least)
	}
	if median(kept) < median(cost)-slack {
		failed = errors.Join(failed, fmt.Errorf("exactly_once keeps %.2f of the relay's rate, transactions %.2f of the bare loop's: more than %.2f apart", median(kept), median(cost), slack))
	}
	return failed
}

// ratios are a's values over b's, round by round.
func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func load(src *kafkatest.Cluster, records int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(src.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := create(cl, "src"); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 2))
	letters := make([]byte, 1<<20) // as text compresses: hardly within a batch
	for i := range letters {
		letters[i] = byte('!' + r.IntN(90))
	}
	var failed error
	for i := range records {
		from := r.IntN(len(letters) - size)
		cl.Produce(context.Background(), &kgo.Record{Topic: "src", Partition: int32(i % partitions), Key: strconv.AppendInt(nil, int64(i), 10), Value: letters[from : from+size]},
			func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) })
	}
	return errors.Join(cl.Flush(context.Background()), failed)
}

func create(cl *kgo.Client, topic string) error {
	_, err := kadm.NewClient(cl).CreateTopic(context.Background(), partitions, 1, nil, topic)
	return err
}

// measure runs one contender into a topic of its own: rate and CPU between the
// first look that sees records there and the one that sees them all.
func measure(dst *kafkatest.Cluster, c *contender, round, records int) (rate, cpu float64, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(dst.Brokers()...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	topic := fmt.Sprintf("%s-%d", strings.NewReplacer(" ", "-", ",", "").Replace(c.name), round)
	if err := create(cl, topic); err != nil {
		return 0, 0, err
	}
	cmd := c.start(topic, round)
	cmd.Env = append(os.Environ(), gogc)
	cmd.Stderr, cmd.Stdout = os.Stderr, os.Stderr
	if err := kafkatest.StartProcess(cmd); err != nil {
		return 0, 0, err
	}
	adm := kadm.NewClient(cl)
	var from, n0 int
	var at time.Time
	var cpu0 float64
	deadline := time.Now().Add(5 * time.Minute)
	for {
		n := end(adm, topic)
		now := time.Now()
		if from == 0 && n > 0 {
			from, n0, at, cpu0 = n, n, now, cpuOf(cmd.Process.Pid)
			if profiles != "" && strings.HasPrefix(c.name, "relay") {
				go profile(topic)
			}
		}
		if n >= records {
			used := cpuOf(cmd.Process.Pid) - cpu0
			rate, cpu = float64(records-n0)/now.Sub(at).Seconds(), used/float64(records-n0)*1e6
			return rate, cpu, cmd.Wait()
		}
		if now.After(deadline) {
			_ = cmd.Process.Kill()
			return 0, 0, fmt.Errorf("%d of %d records after 5 minutes", n, records)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// end is how many offsets readers of committed records see. The markers of
// transactions are counted too; they are fewer than one in a thousand.
func end(adm *kadm.Client, topic string) int {
	l, err := adm.ListCommittedOffsets(context.Background(), topic)
	if err != nil || l.Error() != nil {
		return 0
	}
	var n int64
	l.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return int(n)
}

// cpuOf is a process' user and system time in seconds.
func cpuOf(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	const ticks = 100 // USER_HZ on Linux
	return (user + system) / ticks
}

// bareLoop is the yardstick: consume, produce, no processors; with transactions,
// one per interval.
func bareLoop(source, target, topic, records string, transactions bool) error {
	n, err := strconv.Atoi(records)
	if err != nil {
		return err
	}
	in, err := kgo.NewClient(kgo.SeedBrokers(source), kgo.ConsumeTopics("src"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(1<<20))
	if err != nil {
		return err
	}
	defer in.Close()
	opts := []kgo.Opt{kgo.SeedBrokers(target), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000), kgo.ProducerLinger(0)}
	if transactions {
		opts = append(opts, kgo.TransactionalID(topic))
	}
	out, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer out.Close()
	var failed error
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			failed = err
		}
	}
	ctx := context.Background()
	commit := func(more bool) error {
		if err := out.Flush(ctx); err != nil || !transactions {
			return err
		}
		if err := out.EndTransaction(ctx, kgo.TryCommit); err != nil || !more {
			return err
		}
		return out.BeginTransaction()
	}
	if transactions {
		if err := out.BeginTransaction(); err != nil {
			return err
		}
	}
	began := time.Now()
	for done := 0; done < n; {
		f := in.PollRecords(ctx, 8192)
		if err := f.Err(); err != nil {
			return err
		}
		f.EachRecord(func(r *kgo.Record) {
			done++
			out.Produce(ctx, &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}, promise)
		})
		if transactions && time.Since(began) >= interval {
			if err := commit(true); err != nil {
				return err
			}
			began = time.Now()
		}
	}
	return errors.Join(commit(false), failed)
}
