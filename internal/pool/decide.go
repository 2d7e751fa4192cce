package pool

import "time"

// Reason is why a source is to be read.
type Reason int

// The reasons of a Decision.
const (
	// None: no source can be read now.
	None Reason = iota
	// Stay: the one that is read is the right one.
	Stay
	// Initial: the first choice.
	Initial
	// Failed: the one that was read can no longer be.
	Failed
	// Lagging: another one is further on by more than lag_threshold.
	Lagging
	// Failback: an earlier source of the list is healthy again.
	Failback
)

var reasonNames = [...]string{"none", "stay", "initial", "failed", "lagging", "failback"}

func (r Reason) String() string { return reasonNames[r] }

// Decision is the source to read now.
type Decision struct {
	To  int // index; -1: none
	Why Reason
}

// Decide says which source is to be read now.
//
// A healthy source is left only for one further on, or for an earlier one of
// the list, and for either at most once a cooldown; level sources give no
// reason to move. One that is not healthy is left for the heaviest healthy one,
// equal weights for the first of them. Where none is healthy, the source that
// was read last is read again as soon as it answers: going on with it is no
// switch, so there is no flapping to wait out.
func (p *Pool) Decide(at time.Duration) Decision {
	if p.active < 0 {
		return p.first()
	}
	a := &p.sources[p.active]
	if a.state == Healthy {
		if !p.hasMoved || at-p.moved >= p.conf.Cooldown {
			if to := p.ahead(p.active); to >= 0 {
				return Decision{to, Lagging}
			}
			if to := p.earlier(); to >= 0 {
				return Decision{to, Failback}
			}
		}
		return Decision{p.active, Stay}
	}
	if to := p.heaviest(); to >= 0 {
		return Decision{to, Failed}
	}
	if a.state == Unhealthy && p.readable(p.active) {
		return Decision{p.active, Stay}
	}
	return Decision{-1, None}
}

// readable tells whether source i answers, as far as it has to: being healthy
// is asked of all but the one that was read last.
func (p *Pool) readable(i int) bool {
	s := &p.sources[i]
	return s.state != Unhealthy || (i == p.active && s.good > 0)
}

// first is the choice before anything was read: the first healthy source in
// order, unless it lags. A source that has not answered yet is waited for.
func (p *Pool) first() Decision {
	for _, i := range p.order {
		s := &p.sources[i]
		switch {
		case s.state == Unknown && s.bad == 0:
			return Decision{-1, None}
		case s.state == Healthy:
			if to := p.ahead(i); to >= 0 {
				return Decision{to, Initial}
			}
			return Decision{i, Initial}
		}
	}
	return Decision{-1, None}
}

// ahead is the healthy source that lags least, if it lags less than source i by
// more than the threshold; else -1.
func (p *Pool) ahead(i int) int {
	if !p.Lags(i) {
		return -1
	}
	best := -1
	for j := range p.sources {
		s := &p.sources[j]
		if j != i && s.state == Healthy && !s.passed && (best < 0 || s.lag < p.sources[best].lag) {
			best = j
		}
	}
	if best < 0 || p.sources[best].lag+p.conf.LagThreshold >= p.sources[i].lag {
		return -1
	}
	return best
}

// earlier is the first healthy source of the list before the active one that
// does not lag, with failback; else -1.
func (p *Pool) earlier() int {
	if !p.conf.Failback {
		return -1
	}
	for i := range p.active {
		if s := &p.sources[i]; s.state == Healthy && !s.passed && !p.Lags(i) {
			return i
		}
	}
	return -1
}

func (p *Pool) heaviest() int {
	best := -1
	for i := range p.sources {
		if w := p.sources[i].weight(); w >= 0 && (best < 0 || w > p.sources[best].weight()) {
			best = i
		}
	}
	return best
}

// Outlook is what waiting can bring when no source can be read.
type Outlook int

// The outlooks.
const (
	// Wait: a source may become healthy by itself.
	Wait Outlook = iota
	// Soon: nothing was read yet, and some first probes have not ended.
	Soon
	// NoneAgrees: every source is diverged.
	NoneAgrees
	// NoTopic: every source that is not diverged answers and has lacked a
	// topic for absentAfter probes.
	NoTopic
	// AllTrimmed: the same, but for sources whose retention has passed the
	// position.
	AllTrimmed
)

// absentAfter probes in a row that miss a topic mean that it is gone; a broker
// just started may not know its topics yet.
const absentAfter = 3

// Outlook tells what waiting can bring.
func (p *Pool) Outlook() Outlook {
	left, trimmed, absent := 0, 0, 0
	for i := range p.sources {
		s := &p.sources[i]
		if s.state == Unknown && s.bad == 0 && p.active < 0 {
			return Soon
		}
		if s.state == Diverged {
			continue
		}
		left++
		if s.absent >= absentAfter {
			absent++
		} else if s.state == Trimmed {
			trimmed++
		}
	}
	switch {
	case left == 0:
		return NoneAgrees
	case absent == left:
		return NoTopic
	case trimmed+absent == left:
		return AllTrimmed
	}
	return Wait
}

// LosingLeast is the trimmed source that has lost the fewest records of those
// wanted; -1 without one.
func (p *Pool) LosingLeast() int {
	best := -1
	for i := range p.sources {
		if s := &p.sources[i]; s.state == Trimmed && (best < 0 || s.lost < p.sources[best].lost) {
			best = i
		}
	}
	return best
}
