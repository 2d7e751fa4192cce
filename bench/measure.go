package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

const (
	// gogc is what the relay's binary sets for itself; every Go contender runs so.
	gogc = "GOGC=400"
	// patience is how long a contender may take for a round.
	patience = 5 * time.Minute
	// between looks at the target.
	lookEvery = 5 * time.Millisecond
)

// sample is what one round of one contender gave, from the first look that sees
// records on the target to the one that sees them all.
type sample struct {
	rate  float64 // records per second
	bytes float64 // of values, MB per second
	cpu   float64 // seconds of user and system time per million records
	peak  float64 // resident memory, MiB, at its highest, of the whole run
	first float64 // seconds from its start to the first records
}

// measure starts cmd, which is to bring all records of the shape into the topic
// at, and looks at the target until they are there.
func measure(dst *kafkatest.Cluster, cmd *exec.Cmd, at string, s shape, ends bool) (sample, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(dst.Brokers()...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return sample{}, err
	}
	defer cl.Close()
	cmd.Env = append(os.Environ(), gogc)
	began := time.Now()
	if err := kafkatest.StartProcess(cmd); err != nil {
		return sample{}, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	out, err := watch(kadm.NewClient(cl), cmd.Process.Pid, began, at, s, done)
	if err != nil || !ends {
		_ = cmd.Process.Kill()
		<-done
		return out, err
	}
	return out, <-done
}

func watch(adm *kadm.Client, pid int, began time.Time, topic string, s shape, done chan error) (sample, error) {
	var out sample
	var from int
	var at time.Time
	var cpu0 float64
	for {
		n, now := end(adm, topic), time.Now()
		out.peak = max(out.peak, peakOf(pid))
		switch {
		case n >= s.records:
			done := float64(n - from)
			if from == 0 || done == 0 {
				return out, fmt.Errorf("all records were there at the first look: too few to measure")
			}
			took := now.Sub(at).Seconds()
			out.rate, out.cpu = done/took, (cpuOf(pid)-cpu0)/done*1e6
			out.bytes = out.rate * float64(s.size) / 1e6
			return out, nil
		case from == 0 && n > 0:
			from, at, cpu0, out.first = n, now, cpuOf(pid), now.Sub(began).Seconds()
		case now.Sub(began) > patience:
			return out, fmt.Errorf("%d of %d records after %s", n, s.records, patience)
		}
		select {
		case err := <-done:
			done <- err // for whoever waits for its end
			if n = end(adm, topic); err != nil || n < s.records {
				return out, fmt.Errorf("it ended at %d of %d records: %w", n, s.records, err)
			}
		case <-time.After(lookEvery):
		}
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

// peakOf is the most memory a process has had resident, residentOf what it has
// now; MiB.
func peakOf(pid int) float64     { return statusOf(pid, "VmHWM:") }
func residentOf(pid int) float64 { return statusOf(pid, "VmRSS:") }

func statusOf(pid int, field string) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// medians of each figure on its own.
func medians(v []sample) sample {
	of := func(f func(sample) float64) float64 {
		var all []float64
		for _, s := range v {
			all = append(all, f(s))
		}
		return median(all)
	}
	return sample{
		rate:  of(func(s sample) float64 { return s.rate }),
		bytes: of(func(s sample) float64 { return s.bytes }),
		cpu:   of(func(s sample) float64 { return s.cpu }),
		peak:  of(func(s sample) float64 { return s.peak }),
		first: of(func(s sample) float64 { return s.first }),
	}
}

// over are the medians of a's figures over b's, round by round, so that what
// slows the machine for a while slows both.
func over(a, b []sample) sample {
	var out []sample
	for i := range min(len(a), len(b)) {
		out = append(out, sample{rate: a[i].rate / b[i].rate, bytes: a[i].bytes / b[i].bytes, cpu: a[i].cpu / b[i].cpu, peak: a[i].peak / b[i].peak, first: a[i].first / b[i].first})
	}
	return medians(out)
}
