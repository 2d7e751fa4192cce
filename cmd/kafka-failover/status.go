package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/kafka-failover/kafka-failover/input"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "Show the sources, and how far the target has come, whether the relay runs or not",
		Description: `Takes one look at every source and at the marks on the target: which sources
can be read, how far each is behind, and for every partition the position, the
source's end and what is left to relay. Positions are those of the last mark,
which a running relay writes once a second. The exit code is 1 if no source can
be read or the target does not answer.

  kafka-failover status --watch ./relay.yaml`,
		ArgsUsage: "CONFIG",
		Flags: append(configFlags(),
			&cli.BoolFlag{Name: "json", Usage: "print JSON, with --watch one line per look"},
			&cli.BoolFlag{Name: "watch", Usage: "look again until interrupted"},
			&cli.DurationFlag{Name: "every", Value: 2 * time.Second, Usage: "time between two looks of --watch"}),
		Action: func(c *cli.Context) error {
			return withConfig(c, func(conf *configured) error { return status(c, conf) })
		},
	}
}

func status(c *cli.Context, conf *configured) error {
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for {
		bad, err := statusOnce(ctx, c, conf)
		if err != nil {
			return err
		}
		if !c.Bool("watch") {
			if bad {
				return cli.Exit("", 1)
			}
			return nil
		}
		select {
		case <-time.After(c.Duration("every")):
		case <-ctx.Done():
			return nil
		}
	}
}

// clearScreen moves to the top left and clears what is below.
const clearScreen = "\x1b[H\x1b[J"

func statusOnce(ctx context.Context, c *cli.Context, conf *configured) (bad bool, err error) {
	states := make([]*input.Status, len(conf.relays))
	for i, r := range conf.relays {
		states[i] = r.in.Status(ctx, r.target())
		bad = bad || states[i].Bad()
	}
	if ctx.Err() != nil { // interrupted meanwhile
		return bad, nil //nolint:nilerr // an interrupt is how a watch ends
	}
	if c.Bool("watch") && !c.Bool("json") && isTerminal(stdout) {
		say(clearScreen)
	}
	for i, s := range states {
		v := struct {
			Relay string    `json:"relay,omitempty"`
			Time  time.Time `json:"time"`
			*input.Status
		}{conf.relays[i].name, time.Now().UTC().Truncate(time.Millisecond), s}
		switch {
		case c.Bool("json") && c.Bool("watch"):
			err = json.NewEncoder(stdout).Encode(v)
		case c.Bool("json"):
			err = printJSON(v)
		default:
			printStatus(s)
		}
	}
	return bad, err
}

func printStatus(s *input.Status) {
	t := newTable("", "source", "state", "weight", "lag", "")
	for _, src := range s.Sources {
		active := ""
		if src.Active {
			active = "read last"
		}
		weight := fmt.Sprint(src.Weight)
		if src.Weight < 0 {
			weight = "-"
		}
		t.AppendRow(table.Row{active, src.Name, src.State, weight, src.Lag, src.Reason})
	}
	t.SetColumnConfigs(lastColumn(6))
	t.Render()
	if s.Target != "" {
		say("\nThe target: %s\n", s.Target)
		return
	}
	if len(s.Partitions) == 0 {
		return
	}
	say("\n")
	t = newTable("source partition", "target partition", "position", "source end", "lag")
	left := int64(0)
	known := func(n int64, otherwise string) string {
		if n < 0 {
			return otherwise
		}
		return fmt.Sprint(n)
	}
	for i, p := range s.Partitions {
		left += max(0, p.Lag)
		if i < mostRows {
			t.AppendRow(table.Row{p.Partition, p.Target, known(p.Position, "none yet"), known(p.End, "unknown"), known(p.Lag, "unknown")})
		}
	}
	if n := len(s.Partitions) - mostRows; n > 0 {
		t.AppendRow(table.Row{fmt.Sprintf("and %d more", n)})
	}
	t.AppendFooter(table.Row{"", "", "", "", left})
	t.Render()
}
