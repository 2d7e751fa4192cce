package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// throughput is the main comparison: the bare loop, the relay in its ways, and
// the peers, with 200 B records in 4 partitions.
func throughput(s *stage) (string, []bound, error) {
	loop, loopTx, loopJSON := bare(plain, "bare loop"), bare(plain, "bare loop, transactions", "transactions"), bare(documents, "bare loop, JSON")
	least := relay(plain, "relay", way{})
	standard := relay(plain, "relay, metadata: standard", way{metadata: "standard"})
	exactly := relay(plain, "relay, exactly_once", way{delivery: "exactly_once"})
	byKey := relay(plain, "relay, filter on the key", way{processors: `{ kafka_failover_filter: { name: f, check: 'meta("kafka_key") != "none"' } }`})
	byField := relay(documents, "relay, filter on a JSON field", way{processors: `{ kafka_failover_filter: { name: f, check: 'this.currency == "INR"' } }`})
	mapKey := relay(plain, "relay, mapping on the key", way{metadata: "standard", processors: `{ mapping: 'root = if meta("kafka_key") == "none" { deleted() }' }`})
	mapField := relay(documents, "relay, mapping on a JSON field", way{processors: `{ mapping: 'root = if this.currency != "INR" { deleted() }' }`})
	ours := []*contender{loop, least, standard, byKey, loopJSON, byField, mapKey, mapField, loopTx, exactly}
	others := peers()
	if err := s.rounds(ours, flags.rounds); err != nil {
		return "", nil, err
	}
	// Peers take longer. Their rounds are fewer, and each begins with ours.
	rival := relay(plain, "relay, beside the peers", way{})
	n := min(flags.rounds, 3)
	for number := 1; number <= n; number++ {
		for _, c := range append([]*contender{rival}, others...) {
			if err := s.run(c, number, number == n); err != nil {
				return "", nil, err
			}
		}
	}
	text := "\n## Throughput\n\n" + compared(loop, loopJSON, append(ours, append([]*contender{rival}, others...)...)) + differences(append(ours, others...))
	bounds := []bound{
		atLeast("relay's rate / bare loop's", over(least.samples, loop.samples).rate, 0.70),
		atMost("relay's CPU per record / bare loop's", "%.2f", over(least.samples, loop.samples).cpu, 1.7),
		atLeast("relay with a filter on the key, rate / bare loop's", over(byKey.samples, loop.samples).rate, 0.55),
		atLeast("relay with a filter on a JSON field, rate / bare loop's", over(byField.samples, loopJSON.samples).rate, 0.33),
		atMost("CPU of a filter / of a mapping with deleted() that does the same, key", "%.2f", over(byKey.samples, mapKey.samples).cpu, 1),
		atMost("CPU of a filter / of a mapping with deleted() that does the same, JSON field", "%.2f", over(byField.samples, mapField.samples).cpu, 1),
		atMost("relay's peak memory, MiB", "%.0f", medians(least.samples).peak, 350),
		keeps(loop, loopTx, least, exactly),
	}
	for _, c := range others {
		if c.behind > 0 {
			bounds = append(bounds, atLeast("relay's rate / "+c.name, over(rival.samples, c.samples).rate, c.behind))
		}
	}
	return text, append(bounds, exact(ours...)...), nil
}

// keeps is the bound on what transactions cost: not more than they cost the bare
// loop, but for a little.
func keeps(loop, loopTx, least, exactly *contender) bound {
	kept, cost := over(exactly.samples, least.samples).rate, over(loopTx.samples, loop.samples).rate
	return atLeast(fmt.Sprintf("share of its rate the relay keeps with exactly_once (a bare loop with transactions keeps %.2f)", cost), kept, cost-0.05)
}

// compared is the table of all, with ratios to the bare loop on the same data.
func compared(loop, loopJSON *contender, cs []*contender) string {
	rows := [][]string{{"", "records/s", "MB/s", "CPU-s per million", "peak MiB", "rate / bare loop", "CPU / bare loop"}}
	for _, c := range cs {
		yardstick := loop
		if c.shape.name == loopJSON.shape.name {
			yardstick = loopJSON
		}
		rows = append(rows, append(c.row(), c.ratios(yardstick)...))
	}
	return markdown(rows)
}

func (c *contender) row() []string {
	m := medians(c.samples)
	return []string{c.name, count(m.rate), fmt.Sprintf("%.1f", m.bytes), fmt.Sprintf("%.2f", m.cpu), fmt.Sprintf("%.0f", m.peak)}
}

func (c *contender) ratios(yardstick *contender) []string {
	r := over(c.samples, yardstick.samples)
	return []string{fmt.Sprintf("%.3f", r.rate), fmt.Sprintf("%.2f", r.cpu)}
}

// differences are the oracle's words on each.
func differences(cs []*contender) string {
	rows := [][]string{{"Target against source, last round", "records", "lost", "duplicated", "reordered", "altered", "misplaced", "foreign"}}
	for _, c := range cs {
		if r := c.report; r != nil {
			row := []string{c.name}
			for _, n := range figures(r) {
				row = append(row, count(float64(n)))
			}
			rows = append(rows, row)
		}
	}
	return "\n" + markdown(rows) + "\nAltered counts timestamps and headers too; misplaced is in another partition than at the source.\n"
}

func figures(r *oracle.Report) []int {
	return []int{r.Source, r.Lost, r.Duplicated, r.Reordered, r.Altered, r.Misplaced, r.Foreign}
}

// chosen are those that --only names.
func chosen(cs []*contender) []*contender {
	return slices.DeleteFunc(cs, func(c *contender) bool { return !strings.Contains(c.name, flags.only) })
}

// exact are the bounds on what the relay has written.
func exact(cs ...*contender) []bound {
	var out []bound
	for _, c := range cs {
		if c.tied != byOrigin {
			continue
		}
		var wrong int
		for _, n := range figures(c.report)[1:] {
			wrong += n
		}
		out = append(out, atMost("differences, "+c.name+", "+c.shape.says, "%.0f", float64(wrong), 0))
	}
	return out
}

// quick is what most changes need: the relay without processors beside the bare
// loop, both without and with transactions.
func quick() error {
	s, err := newStage()
	if err != nil {
		return err
	}
	defer s.close()
	loop, loopTx := bare(plain, "bare loop"), bare(plain, "bare loop, transactions", "transactions")
	least, exactly := relay(plain, "relay", way{}), relay(plain, "relay, exactly_once", way{delivery: "exactly_once"})
	cs := []*contender{loop, least, loopTx, exactly}
	if flags.only != "" {
		return s.rounds(chosen(cs), flags.rounds)
	}
	if err := s.rounds(cs, flags.rounds); err != nil {
		return err
	}
	ratio := over(least.samples, loop.samples)
	bounds := append([]bound{
		atLeast("relay's rate / bare loop's", ratio.rate, 0.6),
		atMost("relay's CPU per record / bare loop's", "%.2f", ratio.cpu, 2),
		keeps(loop, loopTx, least, exactly),
	}, exact(least, exactly)...)
	fmt.Print("\n", compared(loop, loop, cs), "\n", table(bounds))
	return unmet(bounds)
}
