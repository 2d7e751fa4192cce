package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

const (
	latencyRate   = 1000 // records per second
	latencyFor    = 8 * time.Second
	latencyWarmUp = 2 * time.Second
	// coldRounds come first and do not count: brokers just started compile their
	// code for so long.
	coldRounds = 2
)

// following is a relay that stays behind a topic's end.
const followingYAML = `
logger: { level: WARN }
http: { enabled: %t, address: "127.0.0.1:%d", debug_endpoints: true }
input:
  kafka_failover:
    sources: [ { name: dc1, seed_brokers: [ %q ] } ]
    topics: [ "%s:%s" ]
    metadata: none
output:
  kafka_failover:
    seed_brokers: [ %q ]
    relay_id: %s
    delivery: %s
`

// follow starts the relay from topic from to topic into, which it makes on both
// sides if they are not there. With a port it serves /debug.
func (s *stage) follow(from, into, delivery string, partitions, port int) (*exec.Cmd, error) {
	for _, c := range []struct {
		cluster *kafkatest.Cluster
		topic   string
	}{{s.src, from}, {s.dst, into}} {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.cluster.Brokers()...))
		if err != nil {
			return nil, err
		}
		err = create(cl, c.topic, partitions)
		cl.Close()
		if err != nil && !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
			return nil, err
		}
	}
	file, err := (&round{dir: s.dir}).write(into+".yaml", fmt.Sprintf(followingYAML, port > 0, port, s.src.Brokers()[0], from, into, s.dst.Brokers()[0], into, delivery))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(flags.relay, "run", file)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd, kafkatest.StartProcess(cmd)
}

func stop(cmd *exec.Cmd) error {
	return errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait())
}

// latency is the time from just before a record is given to the producer of the
// source to the moment a consumer of the target has it: the append at the source
// is in it.
func latency(s *stage) (string, []bound, error) {
	text := fmt.Sprintf("\n## Latency\n\nFrom the producer at the source to a consumer at the target, %d records/s of 200 B into 4 partitions; median of the rounds. A round is %s, the first %s of it left out, and %d rounds come first that do not count.\n", latencyRate, latencyFor, latencyWarmUp, coldRounds)
	rows := [][]string{{"delivery", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"}}
	var bounds []bound
	var histograms string
	for _, delivery := range []string{"at_least_once", "exactly_once"} {
		var all [][]time.Duration
		for n := range coldRounds + flags.rounds {
			took, err := s.latencyRound(fmt.Sprintf("latency-%s-%d", delivery, n), delivery)
			if err != nil {
				return "", nil, fmt.Errorf("latency, %s: %w", delivery, err)
			}
			fmt.Printf("round %d %-14s p50 %.1f ms, p99 %.1f ms\n", n+1-coldRounds, delivery, at(took, 0.5), at(took, 0.99))
			if n >= coldRounds {
				all = append(all, took)
			}
		}
		of := func(q float64) float64 {
			var v []float64
			for _, took := range all {
				v = append(v, at(took, q))
			}
			return median(v)
		}
		row := []string{delivery}
		for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
			row = append(row, fmt.Sprintf("%.1f", of(q)))
		}
		rows = append(rows, row)
		histograms += "\n" + delivery + ", all rounds:\n\n" + histogram(slices.Concat(all...))
		if delivery == "at_least_once" {
			bounds = append(bounds, atMost("latency p50, ms", "%.1f", of(0.5), 5), atMost("latency p99, ms", "%.1f", of(0.99), 25))
		}
	}
	return text + "\n" + markdown(rows) + histograms, bounds, nil
}

// latencyRound gives the sorted times of one round.
func (s *stage) latencyRound(topic, delivery string) ([]time.Duration, error) {
	cmd, err := s.follow(topic, topic, delivery, 4, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cmd.Process.Kill() }()
	in, err := kgo.NewClient(kgo.SeedBrokers(s.src.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := kgo.NewClient(kgo.SeedBrokers(s.dst.Brokers()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), latencyFor+30*time.Second)
	defer cancel()
	sent := make(chan error, 1)
	began := time.Now()
	n := int(latencyFor.Seconds() * latencyRate)
	go func() { sent <- produceAt(ctx, in, topic, began, n, latencyRate, 4) }()
	var took []time.Duration
	for seen := 0; seen < n; {
		f := out.PollFetches(ctx)
		if err := f.Err(); err != nil {
			return nil, err
		}
		now := time.Since(began)
		f.EachRecord(func(r *kgo.Record) {
			seen++
			if at := time.Duration(binary.BigEndian.Uint64(r.Value)); at >= latencyWarmUp {
				took = append(took, now-at)
			}
		})
	}
	slices.Sort(took)
	return took, errors.Join(<-sent, stop(cmd))
}

// produceAt writes n records at an even rate. A record's value begins with when,
// since began, it was given to the producer.
func produceAt(ctx context.Context, cl *kgo.Client, topic string, began time.Time, n, rate, partitions int) error {
	failed := make(chan error, 1)
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; i < n; {
		for due := min(n, int(time.Since(began).Seconds()*float64(rate))); i < due; i++ {
			value := make([]byte, 200)
			binary.BigEndian.PutUint64(value, uint64(time.Since(began)))
			cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: value}, promise)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-tick.C:
		}
	}
	return cl.Flush(ctx)
}

// at is a quantile in milliseconds.
func at(sorted []time.Duration, q float64) float64 {
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i].Microseconds()) / 1000
}

// histogram draws how the times are spread.
func histogram(took []time.Duration) string {
	edges := []time.Duration{1, 2, 3, 4, 5, 7, 10, 15, 25, 50, 100, 200, 400, 1000}
	counts := make([]int, len(edges)+1)
	for _, t := range took {
		i, _ := slices.BinarySearch(edges, (t+time.Millisecond-1)/time.Millisecond)
		counts[i]++
	}
	var sb strings.Builder
	sb.WriteString("```\n")
	for i, n := range counts {
		name := fmt.Sprintf("> %d ms", edges[len(edges)-1])
		if i < len(edges) {
			name = fmt.Sprintf("≤ %d ms", edges[i])
		}
		if n > 0 {
			share := float64(n) / float64(len(took))
			fmt.Fprintf(&sb, "%-9s %7d %6.2f %%  %s\n", name, n, share*100, strings.Repeat("█", int(share*60+0.5)))
		}
	}
	return sb.String() + "```\n"
}
