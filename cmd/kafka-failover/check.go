package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/kafka-failover/kafka-failover/internal/preflight"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "Look at every source and the target as configured, and say what a start would do",
		Description: `Connects to every source and to the target of a configuration and prints what
it finds: whether they can be reached, their topics and settings, whether the
sources hold the same records (sampled), where the target stands and where each
partition would begin. It writes nothing anywhere. The exit code is 1 if
anything would keep the relay from running, now or once it has to switch.

  kafka-failover check ./relay.yaml`,
		ArgsUsage: "CONFIG",
		Flags:     append(configFlags(), &cli.BoolFlag{Name: "json", Usage: "print the report as JSON"}),
		Action: func(c *cli.Context) error {
			return withConfig(c, func(conf *configured) error { return check(c, conf) })
		},
	}
}

func check(c *cli.Context, conf *configured) error {
	failed := false
	for _, r := range conf.relays {
		rep := r.in.Check(c.Context, r.target())
		failed = failed || rep.Failed()
		if c.Bool("json") {
			if err := printJSON(struct {
				Relay string `json:"relay,omitempty"`
				OK    bool   `json:"ok"`
				*preflight.Report
			}{r.name, !rep.Failed(), rep}); err != nil {
				return err
			}
			continue
		}
		printCheck(rep)
	}
	if failed {
		return cli.Exit("", 1)
	}
	return nil
}

func printCheck(rep *preflight.Report) {
	t := newTable("", "of", "what", "finding")
	for _, f := range rep.Findings {
		t.AppendRow(table.Row{f.Level, f.Subject, f.Check, f.Text})
	}
	t.SetColumnConfigs(lastColumn(4))
	t.Render()
	if len(rep.Starts) > 0 {
		say("\nA start would read %s:\n", rep.Source)
		t := newTable("source partition", "target partition", "from offset", "log", "left", "because of")
		for _, s := range rep.Starts[:min(len(rep.Starts), mostRows)] {
			t.AppendRow(table.Row{s.Partition, s.Target, s.Offset, fmt.Sprintf("%d to %d", s.LogStart, s.LogEnd), s.Behind(), s.Why})
		}
		t.Render()
		if n := len(rep.Starts) - mostRows; n > 0 {
			say("and %d partitions more (all of them with --json)\n", n)
		}
	}
}
