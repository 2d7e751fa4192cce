package relay

import (
	"fmt"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Alone are the terms of a generation in which no kafka_failover output takes
// part (resume: cache). Its tickets have no turn: Benthos' acknowledgement alone
// moves positions, and a batch that is refused breaks the generation, so that the
// next one reads on from what was acknowledged without a gap.
type Alone struct {
	// MaxInFlight batches may be unacknowledged.
	MaxInFlight int
	// Careful are offsets of batches that were refused before: until the positions
	// have passed them, one batch at a time is under way. Else every refusal would
	// have the whole window delivered again.
	Careful map[position.TP]int64
	// refused is what Careful is to be in the next generation.
	refused map[position.TP]int64
}

// IsAlone tells whether no kafka_failover output takes part.
func (g *Generation) IsAlone() bool { return g.alone != nil }

// Refused returns, per source partition, the end of what was refused in this
// generation, and of what was refused before and has not been passed.
func (g *Generation) Refused() map[position.TP]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[position.TP]int64{}
	for i, p := range g.Parts {
		if end := max(g.alone.Careful[p.Source], g.alone.refused[p.Source]); end > g.tracker.Next(i) {
			out[p.Source] = end
		}
	}
	return out
}

// Passed tells whether the positions have passed what was refused before: a
// refusal is then a new one.
func (g *Generation) Passed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.passedRefused()
}

// passedRefused must be called under the lock.
func (g *Generation) passedRefused() bool {
	if len(g.alone.Careful) == 0 {
		return true
	}
	for i, p := range g.Parts {
		if g.tracker.Next(i) < g.alone.Careful[p.Source] {
			return false
		}
	}
	return true
}

// mostBatches is how many batches may be unacknowledged now. It must be called
// under the lock.
func (g *Generation) mostBatches() int {
	switch {
	case g.alone == nil:
		return MaxBatches
	case !g.passedRefused():
		return 1
	}
	return g.alone.MaxInFlight
}

// ackAlone is Ack where acknowledgements are all there is. What was acknowledged
// counts, whatever became of batches before it: the contiguous prefix moves the
// position. It must be called under the lock.
func (t *Ticket) ackAlone(err error) {
	g := t.gen
	if err != nil && t.failed == nil {
		t.failed = err
		t.refuse(err)
	}
	if t.failed == nil {
		for _, e := range t.entries {
			g.tracker.Done(e)
		}
	}
	g.outstanding--
	g.held -= t.bytes
	g.wake()
}

func (t *Ticket) refuse(err error) {
	g := t.gen
	if g.alone.refused == nil {
		g.alone.refused = map[position.TP]int64{}
	}
	for _, s := range t.spans {
		tp := g.Parts[s.Part].Source
		g.alone.refused[tp] = max(g.alone.refused[tp], s.Next)
	}
	g.breakLocked(fmt.Errorf("the output refused a batch of %s, which is read again: %v", t.describe(), err)) //nolint:errorlint // Benthos unwraps a batch error and would drop this text
}

// Stop ends the relay for good at a ticket of which something must not be
// delivered: where no output of ours could refuse it. Nothing of the ticket
// counts as delivered.
func (t *Ticket) Stop(err error) {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	t.failed = err
	g.fatalLocked(fmt.Errorf("stopped at a batch of %s: %w", t.describe(), err))
}

// errNotAlone explains a ticket that reached an output of ours all the same.
func errNotAlone(component string) error {
	return fmt.Errorf("a batch of an input with resume: cache reached %s: with a kafka_failover output the target itself keeps the positions; remove resume: cache and resume_cache, or the output", component)
}
