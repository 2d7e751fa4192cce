// Command bench measures the relay: against a bare franz-go loop, against its
// peers, with other data, in latency, in growth, and over ten minutes. Everything
// runs on one source and one target broker that it starts itself, real Apache
// Kafka on loopback, and what is compared is run in turn, several times.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

// flags are the same for all commands; each uses those it needs.
var flags struct {
	relay   string
	rounds  int
	records int
	only    string
	profile string
	results string
	part    string
	seed    uint64
	soak    time.Duration
	rate    int
}

// commands by name.
var commands = map[string]func() error{
	"all":     all,
	"quick":   quick,
	"peers":   func() error { return alone(throughput) },
	"data":    func() error { return alone(data) },
	"latency": func() error { return alone(latency) },
	"growth":  func() error { return alone(growth) },
	"soak":    soak,
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		exit(bareLoop(os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6], len(os.Args) > 7))
	}
	set := flag.NewFlagSet("bench", flag.ExitOnError)
	set.StringVar(&flags.relay, "relay", "../bin/kafka-failover", "the relay's binary")
	set.IntVar(&flags.rounds, "rounds", 5, "rounds of the main comparison and of latency, interleaved; others have fewer")
	set.IntVar(&flags.records, "records", 0, "records per round of the 200 B data, instead of 3,000,000")
	set.StringVar(&flags.only, "only", "", "quick: run the contenders with this in their name, and compare nothing")
	set.StringVar(&flags.profile, "profile", "", "directory for CPU profiles of the relay")
	set.StringVar(&flags.results, "results", "RESULTS.md", "all: the file to write")
	set.StringVar(&flags.part, "write", "", "a file to write one part's results to")
	set.Uint64Var(&flags.seed, "seed", 1, "of the data")
	set.DurationVar(&flags.soak, "for", 10*time.Minute, "soak: how long")
	set.IntVar(&flags.rate, "rate", 50_000, "soak: records per second")
	var do func() error
	if len(os.Args) > 1 {
		do = commands[os.Args[1]]
	}
	if do == nil {
		fmt.Fprintf(os.Stderr, "usage: bench %v [flags]\n", slices.Sorted(func(yield func(string) bool) {
			for name := range commands {
				if !yield(name) {
					return
				}
			}
		}))
		set.PrintDefaults()
		os.Exit(2)
	}
	_ = set.Parse(os.Args[2:]) // ExitOnError
	if flags.records > 0 {
		plain.records, documents.records = flags.records, flags.records
	}
	exit(do())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// part is one part of the whole: what it writes into the results, and what it
// must reach.
type part func(s *stage) (string, []bound, error)

func alone(p part) error {
	began := time.Now()
	s, err := newStage()
	if err != nil {
		return err
	}
	defer s.close()
	text, bounds, err := p(s)
	if err != nil {
		return err
	}
	fmt.Print("\n", text, "\n", table(bounds))
	if flags.part == "" {
		return unmet(bounds)
	}
	return errors.Join(os.WriteFile(flags.part, []byte(head(began)+"\n"+table(bounds)+text), 0o644), unmet(bounds))
}

// all runs every part, each on brokers of its own, and writes the results.
func all() error {
	began := time.Now()
	var text string
	var bounds []bound
	for _, p := range []part{throughput, data, latency, growth} {
		s, err := newStage()
		if err != nil {
			return err
		}
		t, b, err := p(s)
		s.close()
		if err != nil {
			return err
		}
		fmt.Print("\n", t, "\n")
		text, bounds = text+"\n"+t, append(bounds, b...)
	}
	doc := head(began) + "\n" + table(bounds) + text
	fmt.Print("\n", table(bounds))
	return errors.Join(os.WriteFile(flags.results, []byte(doc), 0o644), unmet(bounds))
}
