package pool

import (
	"maps"
	"slices"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Settings of a Pool, as the field `health` gives them.
type Settings struct {
	// Interval between probes; good ones count at most once in it.
	Interval time.Duration
	// UnhealthyAfter failed and HealthyAfter good probes in a row change the
	// state of a source.
	UnhealthyAfter, HealthyAfter int
	// LagThreshold in records; 0: lag moves nothing.
	LagThreshold int64
	// Cooldown is the least time between two moves made for lag or failback.
	Cooldown time.Duration
	// Failback: return to an earlier source of the list once it is healthy.
	Failback bool
}

// apart tells whether two probes are about an interval apart: ticks come a
// little early or late.
func (c Settings) apart(before, at time.Duration) bool {
	return at-before >= c.Interval-c.Interval/10
}

// Pool is the sources and the one that is read. Times are given as the time
// since some moment, the same for all calls.
type Pool struct {
	conf    Settings
	sources []source
	// order is the preference of the very first choice.
	order []int
	// active is read now, or was read last; -1 before the first.
	active int
	// moved is when a move for lag or failback was last begun.
	moved    time.Duration
	hasMoved bool
}

// New makes a pool of sources that are all unknown. order is the preference of
// the first choice: indexes of names.
func New(conf Settings, names []string, order []int) *Pool {
	p := &Pool{conf: conf, sources: make([]source, len(names)), order: order, active: -1}
	for i, n := range names {
		p.sources[i].name = n
	}
	return p
}

// Good notes that a probe of source i showed these ends. The Change is nil if
// the state stays.
func (p *Pool) Good(i int, at time.Duration, ends Ends) *Change {
	s := &p.sources[i]
	from := s.state
	s.ends, s.lag = ends, p.behind(i, ends)
	if s.good == 0 || p.conf.apart(s.counted, at) {
		s.good++
		s.counted = at
	}
	s.bad, s.absent = 0, 0
	switch {
	case s.state == Unknown,
		s.state == Unhealthy && (!s.seen || s.good >= p.conf.HealthyAfter),
		s.state == Short && ends.reach(s.needs):
		s.becomeHealthy()
	}
	return p.change(i, from)
}

// behind is how many records ends lack of what healthy sources have shown,
// partition by partition, so that one busy partition does not hide one that
// stands still. What they showed is older than ends, so lag is never made up
// by probing one source later than another.
func (p *Pool) behind(i int, ends Ends) int64 {
	front := Ends{}
	for j := range p.sources {
		if o := &p.sources[j]; j != i && o.state == Healthy {
			for tp, end := range o.ends {
				front[tp] = max(front[tp], end)
			}
		}
	}
	var lag int64
	for tp, end := range front {
		lag += max(0, end-ends[tp])
	}
	return lag
}

// Bad notes that a probe of source i failed; absent says that it answered and
// lacks a topic.
func (p *Pool) Bad(i int, at time.Duration, why error, absent bool) *Change {
	s := &p.sources[i]
	from := s.state
	s.good = 0
	s.bad++
	switch {
	case !absent:
		s.absent = 0
	case s.absent == 0 || p.conf.apart(s.countedAbsent, at):
		s.absent++
		s.countedAbsent = at
	}
	if s.state == Unhealthy || s.bad >= p.conf.UnhealthyAfter {
		s.becomeUnhealthy(why)
	}
	return p.change(i, from)
}

// Keep forgets what does not belong to these topics, which are those of the
// relay from now on. A source that lacked a topic is judged anew by its next
// probe: it may be one that is no longer wanted.
func (p *Pool) Keep(topics []string) {
	other := func(tp position.TP, _ int64) bool { return !slices.Contains(topics, tp.Topic) }
	for i := range p.sources {
		s := &p.sources[i]
		s.ends, s.needs = maps.Clone(s.ends), maps.Clone(s.needs)
		maps.DeleteFunc(s.ends, other)
		maps.DeleteFunc(s.needs, other)
		if s.absent > 0 {
			s.absent, s.seen = 0, false
		}
	}
}

// Stalled notes that source i answers probes and gives no records.
func (p *Pool) Stalled(i int, why error) *Change {
	return p.find(i, func(s *source) { s.becomeUnhealthy(why) })
}

// Short notes that source i ends before the position; needs are the ends that
// it has to reach.
func (p *Pool) Short(i int, needs Ends, why error) *Change {
	return p.find(i, func(s *source) { s.becomeShort(needs, why) })
}

// Trimmed notes that source i has lost so many records that are still wanted.
func (p *Pool) Trimmed(i int, lost int64, why error) *Change {
	return p.find(i, func(s *source) { s.becomeTrimmed(lost, why) })
}

// Diverged notes that source i does not hold what was relayed.
func (p *Pool) Diverged(i int, why error) *Change {
	return p.find(i, func(s *source) { s.becomeDiverged(why) })
}

func (p *Pool) find(i int, become func(*source)) *Change {
	from := p.sources[i].state
	become(&p.sources[i])
	return p.change(i, from)
}

func (p *Pool) change(i int, from State) *Change {
	s := &p.sources[i]
	if s.state == from {
		return nil
	}
	return &Change{Source: i, Name: s.name, From: from, To: s.state, Why: s.why}
}

// Reading notes that reading has begun on source i: the position moves, or has
// been moved past what was lost, so trimmed sources are to be looked at anew.
func (p *Pool) Reading(i int) []Change {
	p.active = i
	p.sources[i].passed = false
	var out []Change
	for j := range p.sources {
		if s := &p.sources[j]; s.state == Trimmed {
			s.becomeHealthy()
			out = append(out, *p.change(j, Trimmed))
		}
	}
	return out
}

// Moving notes that a move for lag or failback is begun.
func (p *Pool) Moving(at time.Duration) { p.moved, p.hasMoved = at, true }

// Status of every source.
func (p *Pool) Status() []Status {
	out := make([]Status, len(p.sources))
	for i := range p.sources {
		s := &p.sources[i]
		out[i] = Status{Name: s.name, State: s.state, Active: i == p.active, Weight: s.weight(), Lag: s.lag, Why: s.why}
	}
	return out
}

// Settled tells whether source i's last probes have decided its state: failed
// ones that have not are soon followed by another.
func (p *Pool) Settled(i int) bool {
	s := &p.sources[i]
	return s.bad == 0 || s.bad >= p.conf.UnhealthyAfter
}

// Lags tells whether source i is further behind than lag_threshold allows.
func (p *Pool) Lags(i int) bool {
	return p.conf.LagThreshold > 0 && p.sources[i].lag > p.conf.LagThreshold
}
