package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// soakEvery is between two looks at the relay's memory and goroutines.
const soakEvery = 5 * time.Second

// soak runs a relay under steady load and looks whether its memory and its
// goroutines stay what they are: the last third of the time against the second.
// Resident memory goes up and down by a tenth with the collector.
func soak() error {
	s, err := newStage()
	if err != nil {
		return err
	}
	defer s.close()
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		return err
	}
	const topic = "soak"
	cmd, err := s.follow(topic, topic, "at_least_once", 4, ports[0])
	if err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill() }()
	in, err := kgo.NewClient(kgo.SeedBrokers(s.src.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return err
	}
	defer in.Close()
	ctx := context.Background()
	sent := make(chan error, 1)
	go func() {
		sent <- produceAt(ctx, in, topic, time.Now(), int(flags.soak.Seconds())*flags.rate, flags.rate, 4)
	}()
	var memory, goroutines []float64
	for began := time.Now(); time.Since(began) < flags.soak; {
		time.Sleep(soakEvery)
		n, err := goroutinesOf(ports[0])
		if err != nil {
			return err
		}
		memory, goroutines = append(memory, residentOf(cmd.Process.Pid)), append(goroutines, n)
		fmt.Printf("%6s  %4.0f MiB  %3.0f goroutines\n", time.Since(began).Round(time.Second), memory[len(memory)-1], n)
	}
	if err := <-sent; err != nil {
		return err
	}
	second, last := thirds(memory)
	secondG, lastG := thirds(goroutines)
	bounds := []bound{
		atMost("resident memory, median of the last third over that of the second", "%.2f", last/second, 1.15),
		atMost("goroutines, likewise", "%.2f", lastG/secondG, 1.05),
		atMost("peak memory, MiB", "%.0f", peakOf(cmd.Process.Pid), 350),
	}
	c := &contender{name: "relay", shape: shape{name: topic, says: "soak"}, tied: byOrigin}
	r := &round{source: s.src.Brokers()[0], target: s.dst.Brokers()[0], from: topic, into: topic}
	if err := s.await(topic, int(flags.soak.Seconds())*flags.rate); err != nil {
		return err
	}
	if err := stop(cmd); err != nil {
		return err
	}
	if c.report, err = r.compare(c); err != nil {
		return err
	}
	bounds = append(bounds, exact(c)...)
	fmt.Printf("\n%s at %s records/s: %.0f MiB and %.0f goroutines in the second third, %.0f and %.0f in the last; %s\n\n%s", flags.soak, count(float64(flags.rate)), second, secondG, last, lastG, c.report, table(bounds))
	return unmet(bounds)
}

// thirds are the medians of the second and the last third.
func thirds(v []float64) (second, last float64) {
	n := len(v) / 3
	return median(v[n : 2*n]), median(v[2*n:])
}

func goroutinesOf(port int) (float64, error) {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/goroutine?debug=1", port))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	var n float64
	_, scanned := fmt.Sscanf(strings.SplitN(string(b), "\n", 2)[0], "goroutine profile: total %f", &n)
	return n, errors.Join(err, scanned)
}
