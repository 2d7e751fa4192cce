package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// bound is something that must be reached.
type bound struct {
	what   string
	got    float64
	limit  float64
	atMost bool // rather than at least
	format string
}

func atLeast(what string, got, limit float64) bound {
	return bound{what: what, got: got, limit: limit, format: "%.2f"}
}

func atMost(what, format string, got, limit float64) bound {
	return bound{what: what, got: got, limit: limit, atMost: true, format: format}
}

func (b bound) met() bool {
	if b.atMost {
		return b.got <= b.limit
	}
	return b.got >= b.limit
}

// unmet is an error that names what was not reached.
func unmet(bounds []bound) error {
	var failed error
	for _, b := range bounds {
		if !b.met() {
			failed = errors.Join(failed, fmt.Errorf("not reached: %s: "+b.format, b.what, b.got))
		}
	}
	return failed
}

// table says of each bound what was reached.
func table(bounds []bound) string {
	rows := [][]string{{"What must be reached", "bound", "reached", ""}}
	for _, b := range bounds {
		sign, met := "≥ ", "yes"
		if b.atMost {
			sign = "≤ "
		}
		if !b.met() {
			met = "**no**"
		}
		rows = append(rows, []string{b.what, fmt.Sprintf(sign+b.format, b.limit), fmt.Sprintf(b.format, b.got), met})
	}
	return markdown(rows)
}

// markdown is a table whose first row is the head; all columns but the first hold
// figures.
func markdown(rows [][]string) string {
	var sb strings.Builder
	for i, row := range rows {
		sb.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			sb.WriteString("|---|" + strings.Repeat("--:|", len(row)-1) + "\n")
		}
	}
	return sb.String()
}

// head says what was run, on what, and when.
func head(began time.Time) string {
	commit, _ := exec.Command("git", "describe", "--always", "--dirty").Output()
	return fmt.Sprintf(`# Results of the benchmark

Written by `+"`bench "+os.Args[1]+"`"+` at commit %s, %s, in %s: %d cores, %s, %s.
Source, target and contender share the cores; every contender writes to an empty topic
of one real Kafka 4.1.0 broker, from another. Figures are medians of %d rounds, in which
all run in turn; a ratio is the median of the rounds' ratios. Measured is from the
first records on the target to the last one. Go programs run with %s. Seed %d.
`, strings.TrimSpace(string(commit)), began.UTC().Format("2006-01-02"), time.Since(began).Round(time.Minute), runtime.NumCPU(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH,
		flags.rounds, gogc, flags.seed)
}

func count(n float64) string { return humanize.Comma(int64(n)) }
