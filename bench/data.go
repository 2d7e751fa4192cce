package main

import "fmt"

// data compares the bare loop and the relay with records of other sizes, other
// compression and other numbers of partitions.
func data(s *stage) (string, []bound, error) {
	rows := [][]string{{"Data", "bare loop, records/s", "relay, records/s", "relay, MB/s", "rate / bare loop", "CPU / bare loop", "relay's peak MiB", "exactly_once / bare loop"}}
	var ours []*contender
	for _, shape := range otherShapes {
		loop, least, exactly := bare(shape, "bare loop"), relay(shape, "relay", way{}), relay(shape, "relay, exactly_once", way{delivery: "exactly_once"})
		if err := s.rounds([]*contender{loop, least, exactly}, min(flags.rounds, 2)); err != nil {
			return "", nil, err
		}
		b, r := medians(loop.samples), medians(least.samples)
		rows = append(rows, append([]string{shape.says, count(b.rate), count(r.rate), fmt.Sprintf("%.0f", r.bytes)},
			append(least.ratios(loop), fmt.Sprintf("%.0f", r.peak), fmt.Sprintf("%.3f", over(exactly.samples, loop.samples).rate))...))
		ours = append(ours, least, exactly)
	}
	return "\n## Other data\n\n" + markdown(rows) + "\nEvery target was compared with its source; differences are among the bounds above.\n", exact(ours...), nil
}
