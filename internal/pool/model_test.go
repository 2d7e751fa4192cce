package pool

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// event is one thing that happened to a source, as the model remembers it.
type event struct {
	kind string // good, bad, or a finding
	at   time.Duration
	ends Ends
}

// model remembers everything that ever happened and works each answer out anew.
type model struct {
	conf   Settings
	events [][]event
}

// state goes through the story of a source from its beginning.
func (m *model) state(i int) State {
	state, seen := Unknown, false
	for k, e := range m.events[i] {
		switch {
		case state == Diverged || e.kind == "diverged":
			state = Diverged
		case e.kind == "stalled":
			state = Unhealthy
		case e.kind == "short":
			state = Short
		case e.kind == "trimmed":
			state = Trimmed
		case e.kind == "read":
			if state == Trimmed {
				state = Healthy
			}
		case e.kind == "bad":
			if m.inARow(i, k, "bad") >= m.conf.UnhealthyAfter {
				state = Unhealthy
			}
		case state == Unknown, state == Unhealthy && (!seen || m.apart(i, k) >= m.conf.HealthyAfter):
			state = Healthy
		case state == Short && m.reached(i, k):
			state = Healthy
		}
		seen = seen || state == Healthy
	}
	return state
}

// inARow counts probes of a kind up to event k, other events left out.
func (m *model) inARow(i, k int, kind string) int {
	n := 0
	for ; k >= 0; k-- {
		switch m.events[i][k].kind {
		case kind:
			n++
		case "good", "bad":
			return n
		}
	}
	return n
}

// apart counts the good probes up to event k that lie an interval apart, since
// the last bad one or the last stall.
func (m *model) apart(i, k int) int {
	from := k
	for from > 0 && m.events[i][from-1].kind != "bad" && m.events[i][from-1].kind != "stalled" {
		from--
	}
	n, last := 0, time.Duration(0)
	for _, e := range m.events[i][from : k+1] {
		if e.kind == "good" && (n == 0 || e.at-last >= m.conf.Interval*9/10) {
			n, last = n+1, e.at
		}
	}
	return n
}

// reached tells whether a good probe shows what the last finding needed.
func (m *model) reached(i, k int) bool {
	for j := k; j >= 0; j-- {
		if e := m.events[i][j]; e.kind == "short" {
			for tp, need := range e.ends {
				if end, ok := m.events[i][k].ends[tp]; !ok || end < need {
					return false
				}
			}
			return true
		}
	}
	return false
}

func drawEnds(t *rapid.T) Ends {
	e := Ends{}
	for p := range rapid.IntRange(1, 3).Draw(t, "partitions") {
		e[position.TP{Topic: "t", Partition: int32(p)}] = rapid.Int64Range(0, 5).Draw(t, "end") * 100
	}
	return e
}

// Whatever happens, states are those of the dumb model, and no decision breaks a
// rule of the choice.
func TestPoolAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "sources")
		conf := Settings{
			Interval:       time.Second,
			UnhealthyAfter: rapid.IntRange(1, 3).Draw(t, "unhealthy_after"), HealthyAfter: rapid.IntRange(1, 3).Draw(t, "healthy_after"),
			LagThreshold: rapid.SampledFrom([]int64{0, 50, 150}).Draw(t, "lag_threshold"),
			Cooldown:     rapid.SampledFrom([]time.Duration{0, 5 * time.Second}).Draw(t, "cooldown"),
			Failback:     rapid.Bool().Draw(t, "failback"),
		}
		order := rapid.Permutation([]int{0, 1, 2, 3}[:n]).Draw(t, "order")
		p, m := New(conf, make([]string, n), order), &model{conf: conf, events: make([][]event, n)}
		at := time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at += rapid.SampledFrom([]time.Duration{0, 100 * time.Millisecond, time.Second}).Draw(t, "pause")
			i := rapid.IntRange(0, n-1).Draw(t, "source")
			e := event{rapid.SampledFrom([]string{"good", "good", "good", "good", "bad", "bad", "stalled", "short", "trimmed", "diverged", "decide", "decide", "decide"}).Draw(t, "event"), at, drawEnds(t)}
			why := errors.New(e.kind)
			switch e.kind {
			case "good":
				p.Good(i, at, e.ends)
			case "bad":
				p.Bad(i, at, why, false)
			case "stalled":
				p.Stalled(i, why)
			case "short":
				p.Short(i, e.ends, why)
			case "trimmed":
				p.Trimmed(i, 1, why)
			case "diverged":
				if rapid.IntRange(0, 4).Draw(t, "rarely") > 0 {
					continue
				}
				p.Diverged(i, why)
			case "decide":
				d := p.Decide(at)
				checkDecision(t, p, at, d)
				if d.To < 0 {
					continue
				}
				if d.Why == Lagging || d.Why == Failback {
					p.Moving(at)
				}
				p.Reading(d.To)
				for j := range n {
					m.events[j] = append(m.events[j], event{"read", at, nil})
				}
				continue
			}
			m.events[i] = append(m.events[i], e)
			for j := range n {
				if got, want := p.sources[j].state, m.state(j); got != want {
					t.Fatalf("after %s of source %d: source %d is %s, the model says %s", e.kind, i, j, got, want)
				}
			}
		}
	})
}

func checkDecision(t *rapid.T, p *Pool, at time.Duration, d Decision) {
	var healthy []Status
	for _, s := range p.Status() {
		if s.State == Healthy {
			healthy = append(healthy, s)
		}
	}
	if d.To < 0 {
		if len(healthy) > 0 && (p.active >= 0 || p.Outlook() != Soon) {
			t.Fatalf("none is read though %d are healthy", len(healthy))
		}
		return
	}
	to := p.Status()[d.To]
	if p.active < 0 {
		if to.State != Healthy {
			t.Fatalf("the first to be read is %s", to.State)
		}
		return
	}
	from := p.Status()[p.active]
	switch {
	case d.To == p.active:
		if from.State != Healthy && (from.State != Unhealthy || p.sources[p.active].good == 0 || len(healthy) > 0) {
			t.Fatalf("a source that is %s is stayed with, %d are healthy", from.State, len(healthy))
		}
	case to.State != Healthy:
		t.Fatalf("a source that is %s is moved to", to.State)
	case from.State == Healthy:
		if p.hasMoved && at-p.moved < p.conf.Cooldown {
			t.Fatal("a healthy source is left within the cooldown")
		}
		switch d.Why {
		case Lagging:
			if p.conf.LagThreshold == 0 || from.Lag-to.Lag <= p.conf.LagThreshold {
				t.Fatalf("left for lag, %d behind, for one %d behind", from.Lag, to.Lag)
			}
		case Failback:
			if !p.conf.Failback || d.To > p.active {
				t.Fatal("failback to a later source")
			}
		default:
			t.Fatalf("a healthy source is left because: %s", d.Why)
		}
	default:
		for i, s := range p.Status() {
			if s.State == Healthy && (s.Weight > to.Weight || s.Weight == to.Weight && i < d.To) {
				t.Fatalf("source %d with weight %d is taken, %d has %d", d.To, to.Weight, i, s.Weight)
			}
		}
	}
}
