// Command quick measures the relay against a bare franz-go loop, interleaved,
// on one source and one target broker of its own: records per second, CPU per
// million records, and their ratios. Both start from a topic of 1 M records of
// 200 B in 4 partitions, with the same settings of client and collector; the
// time before a target's first records is left out of both.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
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
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		exit(bareLoop(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	}
	records := flag.Int("records", 1_000_000, "records per round")
	rounds := flag.Int("rounds", 5, "rounds, interleaved")
	relay := flag.String("relay", "bin/kafka-failover", "the relay's binary")
	least := flag.Float64("least", 0.6, "fail below this ratio of rates")
	flag.Parse()
	exit(run(*relay, *records, *rounds, *least))
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

func run(relay string, records, rounds int, least float64) error {
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
	cs := []*contender{
		{name: "bare loop", start: func(topic string, _ int) *exec.Cmd {
			return exec.Command(self, "bare", s, t, topic, strconv.Itoa(records))
		}},
		{name: "relay", start: func(topic string, round int) *exec.Cmd {
			file := filepath.Join(dir, topic+".yaml")
			_ = os.WriteFile(file, fmt.Appendf(nil, relayYAML, s, topic, t, round), 0o600)
			return exec.Command(relay, "run", file)
		}},
	}
	for round := range rounds + 1 { // the first one warms the brokers up
		for _, c := range cs {
			rate, cpu, err := measure(dst, c, round, records)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", c.name, round, err)
			}
			if round > 0 {
				c.rate, c.cpu = append(c.rate, rate), append(c.cpu, cpu)
			}
			fmt.Printf("round %d %-10s %9.0f records/s %6.2f CPU-s/M\n", round, c.name, rate, cpu)
		}
	}
	return report(cs[0], cs[1], least)
}

const relayYAML = `
http: { enabled: false }
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
    relay_id: bench%d
`

func report(bare, relay *contender, least float64) error {
	ratios, cpus := make([]float64, len(bare.rate)), make([]float64, len(bare.rate))
	for i := range ratios {
		ratios[i], cpus[i] = relay.rate[i]/bare.rate[i], relay.cpu[i]/bare.cpu[i]
	}
	fmt.Printf("medians: bare loop %.0f records/s, %.2f CPU-s/M; relay %.0f records/s, %.2f CPU-s/M\n",
		median(bare.rate), median(bare.cpu), median(relay.rate), median(relay.cpu))
	fmt.Printf("ratio, median of rounds: rate %.2f (min %.2f, max %.2f), CPU per record %.2f\n",
		median(ratios), slices.Min(ratios), slices.Max(ratios), median(cpus))
	if median(ratios) < least {
		return fmt.Errorf("the relay reaches %.2f of the bare loop's rate, and must reach %.2f", median(ratios), least)
	}
	return nil
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
	topic := fmt.Sprintf("%s-%d", strings.ReplaceAll(c.name, " ", "-"), round)
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

func end(adm *kadm.Client, topic string) int {
	l, err := adm.ListEndOffsets(context.Background(), topic)
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

// bareLoop is the yardstick: consume, produce, no processors.
func bareLoop(source, target, topic, records string) error {
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
	out, err := kgo.NewClient(kgo.SeedBrokers(target), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000), kgo.ProducerLinger(0))
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
	for done := 0; done < n; {
		f := in.PollRecords(ctx, 8192)
		if err := f.Err(); err != nil {
			return err
		}
		f.EachRecord(func(r *kgo.Record) {
			done++
			out.Produce(ctx, &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}, promise)
		})
	}
	return errors.Join(out.Flush(ctx), failed)
}
