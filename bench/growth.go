package main

import (
	"fmt"
	"time"
)

// idleFor is how long a relay with nothing to do is watched.
const idleFor = 10 * time.Second

// growth is what more partitions cost.
func growth(s *stage) (string, []bound, error) {
	rows := [][]string{{"Partitions", "rate / bare loop", "CPU / bare loop", "relay's peak MiB", "time to first record, s", "idle: CPU, % of a core", "idle: MiB"}}
	var ours []*contender
	var idleMemory []float64
	counts := []int{1, 10, 100, 1000}
	for _, n := range counts {
		shape := plain
		shape.name, shape.partitions, shape.says = fmt.Sprintf("growth-%d", n), n, fmt.Sprintf("%d partitions", n)
		loop, least := bare(shape, "bare loop"), relay(shape, "relay", way{})
		if err := s.rounds([]*contender{loop, least}, min(flags.rounds, 2)); err != nil {
			return "", nil, err
		}
		cpu, memory, err := s.idle(n)
		if err != nil {
			return "", nil, err
		}
		fmt.Printf("%d partitions, idle: %.1f %% of a core, %.0f MiB\n", n, cpu, memory)
		m := medians(least.samples)
		rows = append(rows, append(append([]string{count(float64(n))}, least.ratios(loop)...), fmt.Sprintf("%.0f", m.peak), fmt.Sprintf("%.2f", m.first), fmt.Sprintf("%.1f", cpu), fmt.Sprintf("%.0f", memory)))
		ours, idleMemory = append(ours, least), append(idleMemory, memory)
	}
	per := (idleMemory[len(counts)-1] - idleMemory[0]) * 1024 / float64(counts[len(counts)-1]-counts[0])
	return "\n## Growth\n\n" + markdown(rows) + fmt.Sprintf("\nIdle, a partition more costs %.0f KiB.\n", per), exact(ours...), nil
}

// idle is what a relay takes that has relayed one record of each partition and
// finds no more: percent of a core, and MiB.
func (s *stage) idle(partitions int) (cpu, memory float64, err error) {
	topic := fmt.Sprintf("idle-%d", partitions)
	cmd, err := s.follow(topic, topic, "at_least_once", partitions, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = cmd.Process.Kill() }()
	few := shape{name: topic, records: partitions, size: 200, partitions: partitions}
	if err := few.fill(s.src, flags.seed); err != nil {
		return 0, 0, err
	}
	if err := s.await(topic, partitions); err != nil {
		return 0, 0, err
	}
	time.Sleep(3 * time.Second) // its marks
	before := cpuOf(cmd.Process.Pid)
	time.Sleep(idleFor)
	cpu, memory = (cpuOf(cmd.Process.Pid)-before)/idleFor.Seconds()*100, residentOf(cmd.Process.Pid)
	return cpu, memory, stop(cmd)
}
