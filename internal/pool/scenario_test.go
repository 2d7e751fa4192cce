package pool

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// The files in testdata/scenarios are stories: each command is an event at a time, below
// it stands what it changed and what is decided then. `go test -rewrite` writes
// the outcomes anew.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		var p *Pool
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "pool" {
				p = newScenario(t, d)
				return decided(p, 0)
			}
			var out []string
			at := time.Duration(0)
			lines := strings.Split(d.Input, "\n")
			if d.Cmd != "steps" {
				lines = []string{d.Cmd + " " + args(d)}
			}
			for _, line := range lines {
				f := strings.Fields(line)
				if len(f) == 0 {
					continue
				}
				if f[0] == "at" {
					at = duration(t, f[1])
					continue
				}
				for _, c := range play(t, p, at, f) {
					out = append(out, said(c))
				}
			}
			return strings.Join(append(out, decided(p, at)), "\n")
		})
	})
}

func args(d *datadriven.TestData) string {
	var out []string
	for _, a := range d.CmdArgs {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

func duration(t testing.TB, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newScenario reads "pool sources=N [failback] [lag=N] ...".
func newScenario(t *testing.T, d *datadriven.TestData) *Pool {
	conf := Settings{Interval: time.Second, UnhealthyAfter: 2, HealthyAfter: 3, Cooldown: 30 * time.Second}
	var names []string
	var order []int
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "sources":
			n, _ := strconv.Atoi(a.Vals[0])
			for i := range n {
				names, order = append(names, fmt.Sprintf("dc%d", i+1)), append(order, i)
			}
		case "order":
			order = nil
			for _, v := range a.Vals {
				n, _ := strconv.Atoi(v)
				order = append(order, n-1)
			}
		case "lag":
			conf.LagThreshold, _ = strconv.ParseInt(a.Vals[0], 10, 64)
		case "cooldown":
			conf.Cooldown = duration(t, a.Vals[0])
		case "failback":
			conf.Failback = true
		default:
			t.Fatalf("unknown argument %q", a.Key)
		}
	}
	return New(conf, names, order)
}

// play does one event: good dc1 100 200 | bad dc1 [absent] | short dc1 100 |
// trimmed dc1 50 | diverged dc1 | stalled dc1 | read dc1 | move.
func play(t *testing.T, p *Pool, at time.Duration, f []string) []Change {
	if f[0] == "move" {
		p.Moving(at)
		return nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(f[1], "dc"))
	if err != nil {
		t.Fatalf("no source in %q", f)
	}
	i := n - 1
	ends := Ends{}
	for part, v := range f[2:] {
		if end, err := strconv.ParseInt(v, 10, 64); err == nil {
			ends[position.TP{Topic: "t", Partition: int32(part)}] = end
		}
	}
	var c *Change
	switch f[0] {
	case "good":
		c = p.Good(i, at, ends)
	case "bad":
		c = p.Bad(i, at, errors.New("refused"), len(f) > 2)
	case "short":
		c = p.Short(i, ends, errors.New("it ends before"))
	case "trimmed":
		c = p.Trimmed(i, ends.Sum(), errors.New("retention passed it"))
	case "diverged":
		c = p.Diverged(i, errors.New("it holds others"))
	case "stalled":
		c = p.Stalled(i, errors.New("no records"))
	case "read":
		return p.Reading(i)
	default:
		t.Fatalf("unknown event %q", f[0])
	}
	if c == nil {
		return nil
	}
	return []Change{*c}
}

func said(c Change) string {
	s := fmt.Sprintf("%s: %s -> %s", c.Name, c.From, c.To)
	if c.Why != nil {
		s += fmt.Sprintf(" (%v)", c.Why)
	}
	return s
}

func decided(p *Pool, at time.Duration) string {
	d := p.Decide(at)
	if d.To < 0 {
		return "no source: " + map[Outlook]string{Wait: "wait", Soon: "soon", NoneAgrees: "none agrees", AllTrimmed: "all trimmed", NoTopic: "no topic"}[p.Outlook()]
	}
	s := p.Status()[d.To]
	return fmt.Sprintf("%s: %s, weight %d, lag %d", s.Name, d.Why, s.Weight, s.Lag)
}
