package pool

import (
	"fmt"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// State of a source. Only a healthy source is ever chosen, but for the one read
// last (see Pool.Decide).
type State int

// The states of a source.
const (
	// Unknown: no probe has ended yet, or the first ones failed.
	Unknown State = iota
	// Healthy: it answers probes, and has a weight.
	Healthy
	// Unhealthy: it does not answer, has a partition without a reachable
	// leader, lacks a topic, or gives no records.
	Unhealthy
	// Short: it ends before the position. It is healthy again as soon as a
	// probe shows that it has caught up.
	Short
	// Trimmed: its log no longer reaches back to the position. It is looked at
	// again once another source has been read.
	Trimmed
	// Diverged: it does not hold the records that were relayed. Nothing mends
	// that while the relay runs.
	Diverged
)

var stateNames = [...]string{"unknown", "healthy", "unhealthy", "short", "trimmed", "diverged"}

func (s State) String() string { return stateNames[s] }

// Ends are the end offsets of the relay's partitions in one source, for a
// reader of the relay's isolation level.
type Ends map[position.TP]int64

// Sum is the weight of a source that shows these ends.
func (e Ends) Sum() int64 {
	var n int64
	for _, end := range e {
		n += end
	}
	return n
}

// reach tells whether every partition of needs ends at or behind its need. A
// partition that the source lacks ends nowhere.
func (e Ends) reach(needs Ends) bool {
	for tp, need := range needs {
		if end, ok := e[tp]; !ok || end < need {
			return false
		}
	}
	return true
}

// source is one source of a Pool. Only its methods change its state.
type source struct {
	name  string
	state State
	// why says what made it leave Healthy; nil for Unknown and Healthy.
	why error
	// ends are of the last good probe, kept while it is unhealthy.
	ends Ends
	// lag is how many records it was behind at its last good probe, partition
	// by partition, behind what the others had shown before that probe.
	lag int64
	// good and bad count probes in a row; one of them is always 0. A good
	// probe counts only if it comes about an interval after the one counted before,
	// so that probes made out of turn do not shorten the hysteresis.
	good, bad int
	counted   time.Duration
	// absent counts, in the same way, bad probes in a row that missed a topic.
	absent        int
	countedAbsent time.Duration
	// seen says that it has been healthy once: until then there is no flapping
	// to wait out.
	seen bool
	// needs are the ends a Short source has to reach.
	needs Ends
	// passed says that it was trimmed since it was last read. It is then not
	// gone back to of free will: it might have lost the position again.
	passed bool
	// lost is how many records a Trimmed source no longer has of those wanted.
	lost int64
}

// Change is a change of a source's state, for logs and metrics.
type Change struct {
	Source   int
	Name     string
	From, To State
	// Why it left Healthy; nil when To is Healthy.
	Why error
}

// become is the one place where a state changes. Diverged is the end.
func (s *source) become(to State, why error) {
	if s.state == Diverged {
		return
	}
	s.state, s.why = to, why
	s.needs, s.lost = nil, 0
	if to == Healthy {
		s.seen = true
	}
}

func (s *source) becomeHealthy() { s.become(Healthy, nil) }

// becomeUnhealthy also begins the hysteresis of becoming healthy anew.
func (s *source) becomeUnhealthy(why error) {
	s.become(Unhealthy, why)
	s.good = 0
}

func (s *source) becomeShort(needs Ends, why error) {
	s.become(Short, why)
	s.needs = needs
}

func (s *source) becomeTrimmed(lost int64, why error) {
	s.become(Trimmed, why)
	s.lost, s.passed = lost, true
}

func (s *source) becomeDiverged(why error) { s.become(Diverged, why) }

// weight is the sum of the end offsets, -1 unless the source is healthy.
func (s *source) weight() int64 {
	if s.state != Healthy {
		return -1
	}
	return s.ends.Sum()
}

// Status is a source as it stands, for reports.
type Status struct {
	Name   string
	State  State
	Active bool
	// Weight is the sum of its end offsets; -1 unless it is healthy.
	Weight int64
	// Lag is in records, behind the best of the other sources.
	Lag int64
	Why error
}

func (s Status) String() string {
	switch {
	case s.Why != nil:
		return fmt.Sprintf("%s is %s: %v", s.Name, s.State, s.Why)
	case s.State == Unknown:
		return s.Name + " has not answered yet"
	}
	return fmt.Sprintf("%s is %s", s.Name, s.State)
}
