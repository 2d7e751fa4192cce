package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
	"github.com/kafka-failover/kafka-failover/internal/verify"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "Prove that the target holds what the source holds, record by record",
		Description: `Reads a source and the target to the ends found at its start and compares them
under the routes of the configuration: key, value, headers, timestamp, partition
and order. It names what is lost, not relayed yet, duplicated, reordered,
altered, misplaced or foreign, and exits with 1 if anything is. It may run while
the relay does; what the relay has not come to yet counts as pending.

  kafka-failover verify ./relay.yaml
  kafka-failover verify --pipeline --since 24h ./filtered.yaml`,
		ArgsUsage: "CONFIG",
		Flags: append(configFlags(),
			&cli.StringFlag{Name: "source", Usage: "the source to compare with, by its name (default: the first that can be read)"},
			&cli.StringFlag{Name: "since", Usage: "compare only records from a time on: 2026-01-31T00:00:00Z, or 24h for the last 24 hours"},
			&cli.BoolFlag{Name: "pipeline", Usage: "apply pipeline.processors to the source's records first, for targets that are filtered or changed"},
			&cli.BoolFlag{Name: "allow-side-effects", Usage: "with --pipeline: also run processors that may change something elsewhere"},
			&cli.BoolFlag{Name: "json", Usage: "print the report as JSON"},
			&cli.BoolFlag{Name: "no-progress", Usage: "show no progress bar"}),
		Action: func(c *cli.Context) error {
			since, err := parseSince(c.String("since"), time.Now())
			if err != nil {
				return err
			}
			return withConfig(c, func(conf *configured) error { return verifyAll(c, conf, since) })
		},
	}
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("--since %q is neither a time such as 2026-01-31T00:00:00Z nor a span such as 24h", s)
	}
	return t, nil
}

func verifyAll(c *cli.Context, conf *configured, since time.Time) error {
	differ := false
	for _, r := range conf.relays {
		v := verifier{c: c, conf: conf, relay: r, since: since}
		result, err := v.run(c.Context)
		if err != nil {
			return err
		}
		differ = differ || !result.Total.Equal()
		if c.Bool("json") {
			err = printJSON(struct {
				Relay  string `json:"relay,omitempty"`
				Source string `json:"source"`
				Equal  bool   `json:"equal"`
				*verify.Result
			}{r.name, v.source, result.Total.Equal(), result})
		} else {
			printVerified(v.source, result)
		}
		if err != nil {
			return err
		}
	}
	if differ {
		return cli.Exit("", 1)
	}
	return nil
}

// verifier verifies one relay of a configuration.
type verifier struct {
	c      *cli.Context
	conf   *configured
	relay  configuredRelay
	since  time.Time
	source string // the one that is compared with
}

func (v *verifier) run(ctx context.Context) (*verify.Result, error) {
	if v.relay.out == nil {
		return nil, errors.New("verify compares with a Kafka target, and with resume: cache the records go elsewhere")
	}
	in, out := v.relay.in.Setup(), v.relay.out.Setup()
	if out.ByContent {
		return nil, errors.New("verify follows the routes of the input's topics, and the output sends records elsewhere by topic, key or partition: what it sent where cannot be compared")
	}
	routes, err := v.relay.in.Routes(ctx, v.relay.out)
	if err != nil {
		return nil, err
	}
	source, err := v.openSource(ctx, in.Sources)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	target, err := out.Conn.Admin()
	if err != nil {
		return nil, err
	}
	defer target.Close()
	o := verify.Options{
		Source: source, Target: target, Routes: routes, Committed: in.Committed,
		Rules: out.Rules, Header: out.OriginHeader, Since: v.since, Later: in.Later,
	}
	o.Rules.Standard = in.Standard
	warning, err := v.positions(ctx, source, &o)
	if err != nil {
		return nil, err
	}
	var warnings []string
	if warning != "" {
		warnings = append(warnings, warning)
	}
	if v.c.Bool("pipeline") {
		p, notes, err := v.conf.pipeline(v.relay, v.c.Bool("allow-side-effects"))
		if err != nil {
			return nil, err
		}
		p.Source, p.DropsFailed, p.DeadLetters, o.Pipeline = v.source, out.DropsFailed, out.DeadLetters, p
		warnings = append(warnings, notes...)
	} else if v.conf.hasProcessors(v.relay) {
		warnings = append(warnings, "the configuration has processors: without --pipeline what they drop or change counts as a difference")
	}
	if !v.c.Bool("no-progress") && isTerminal(os.Stderr) {
		var bar *progressbar.ProgressBar
		o.Total = func(n int64) { bar = newBar(n, "verifying") }
		o.Passed = func(n int64) { _ = bar.Add64(n) }
		defer func() {
			if bar != nil {
				_ = bar.Clear()
			}
		}()
	}
	result, err := verify.Run(ctx, o)
	if err != nil {
		return nil, err
	}
	result.Warnings = append(warnings, result.Warnings...)
	return result, nil
}

// openSource opens the source that --source names, or the first that answers.
func (v *verifier) openSource(ctx context.Context, sources []kafka.Conn) (*kafka.Cluster, error) {
	var errs []error
	name := v.c.String("source")
	for _, conn := range sources {
		if name != "" && conn.Name != name {
			continue
		}
		c, err := conn.Admin()
		if err == nil {
			if _, err = c.Describe(ctx); err == nil {
				v.source = conn.Name
				return c, nil
			}
			c.Close()
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("--source %q names no source of the configuration", name)
	}
	return nil, errors.Join(errs...)
}

// positions notes how far the target's marks have come: what is missing behind
// them is not lost, but still to be relayed.
func (v *verifier) positions(ctx context.Context, source *kafka.Cluster, o *verify.Options) (warning string, err error) {
	q := relay.Query{Resume: v.relay.in.Setup().Resume, MarksOnly: true}
	var names []string
	for _, r := range o.Routes {
		names = append(names, r.Source)
	}
	desc, err := source.Describe(ctx, names...)
	if err != nil {
		return "", err
	}
	q.ClusterID = desc.ClusterID
	for _, r := range o.Routes {
		t := desc.Topics[r.Source]
		if err := t.Usable(source.Conn.Name, r.Source); err != nil {
			return "", err
		}
		q.Topics = append(q.Topics, relay.SourceTopic{Route: r, TopicID: t.ID, Partitions: t.Partitions})
	}
	p, err := v.relay.out.Preview(ctx, q)
	if err = cmp.Or(err, p.Found.Err()); err != nil {
		return "", err
	}
	o.RelayID, o.Positions = p.Standing.RelayID, map[position.TP]int64{}
	for _, ps := range p.Standing.Parts {
		if m := ps.Evidence.Mark; m != nil {
			o.Positions[ps.Part.Source] = m.Next
		}
	}
	if len(o.Positions) == 0 && o.Header != "" && q.Resume != position.ResumeWatermark {
		warning = fmt.Sprintf("the target has no marks of relay_id %s for these topics: what is missing at the end counts as pending", o.RelayID)
	}
	return warning, nil
}

func printVerified(source string, result *verify.Result) {
	t := newTable("target topic", "expected", "found", "lost", "pending", "duplicated", "reordered", "altered", "misplaced", "foreign", "failed")
	row := func(name string, r *verify.Report) table.Row {
		out := table.Row{name}
		for _, n := range []int64{r.Expected, r.Found, r.Lost, r.Pending, r.Duplicated, r.Reordered, r.Altered, r.Misplaced, r.Foreign, r.Failed} {
			out = append(out, humanize.Comma(n))
		}
		return out
	}
	for _, topic := range result.Topics {
		t.AppendRow(row(topic.Target, topic.Report))
	}
	if len(result.Topics) > 1 {
		t.AppendFooter(row("altogether", &result.Total))
	}
	t.Render()
	if n := result.Total.Filtered; n > 0 {
		say("\n%s records of the source are not expected in the target: the pipeline drops them, or they came from it.\n", humanize.Comma(n))
	}
	for _, w := range result.Warnings {
		say("\nNote: %s.\n", w)
	}
	if len(result.Total.Examples) > 0 {
		say("\n")
		for _, e := range result.Total.Examples {
			say("  %s\n", e)
		}
	}
	if result.Total.Equal() {
		say("\nThe target holds what %s holds%s.\n", source, map[bool]string{true: ", as far as both still have it"}[result.Total.Expired > 0])
	} else {
		say("\nThe target differs from %s.\n", source)
	}
}
