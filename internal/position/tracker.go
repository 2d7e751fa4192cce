package position

import (
	"maps"
	"time"
)

// Tracker follows what was read, handed over, written and acknowledged, and
// knows at any moment what a mark may state. It is plain state: its owner
// locks. Source partitions and target partitions are small indexes the owner
// gives out.
type Tracker struct {
	parts []partState
	// acked is the highest acknowledged end offset per target partition.
	acked []int64
}

// PartStart is where one source partition begins in a Tracker.
type PartStart struct {
	// Next is the first source offset that will be read.
	Next int64
	// Slots are the target partitions it may feed.
	Slots []int
	// Pairs are the samples known from before.
	Pairs []Pair
}

type partState struct {
	// next has everything before it done; it never goes back.
	next int64
	// queue holds what was read from next on, in order of reading.
	queue []*Entry
	// covered is the end of the done prefix per slot; it never goes back.
	covered map[int]int64
	// told is the covered ends of the last statement given out.
	told  map[int]int64
	pairs []Pair
	dirty bool
	// last is the timestamp of the last record done, zero before the first.
	last time.Time
}

// staleAfter is how many target records a quiet partition's mark may fall
// behind before it is written again: it bounds what the next boot reads.
const staleAfter = 100_000

// Entry is one run of source offsets of one partition, read as one piece.
type Entry struct {
	part    int
	next    int64
	pair    Pair
	hasPair bool
	slots   []int // handed to these, in the order first touched
	ends    []int64
	done    bool
	// times of its first and last record; zero for one without records.
	first, last time.Time
}

// NewTracker starts with the given partitions; ends are the target partitions'
// end offsets at that moment.
func NewTracker(starts []PartStart, ends []int64) *Tracker {
	t := &Tracker{parts: make([]partState, len(starts)), acked: append([]int64(nil), ends...)}
	for i, s := range starts {
		p := partState{next: s.Next, covered: make(map[int]int64, len(s.Slots)), pairs: append([]Pair(nil), s.Pairs...), dirty: true}
		for _, slot := range s.Slots {
			p.covered[slot] = ends[slot]
		}
		t.parts[i] = p
	}
	return t
}

// Read notes that a run of part was read, up to but not including next. pair,
// if not nil, samples its last record. Runs are given in the order of reading.
func (t *Tracker) Read(part int, next int64, pair *Pair) *Entry {
	e := &Entry{part: part, next: next}
	if pair != nil {
		e.pair, e.hasPair = *pair, true
	}
	p := &t.parts[part]
	p.queue = append(p.queue, e)
	return e
}

// Date notes the timestamps of e's first and last record.
func (e *Entry) Date(first, last time.Time) { e.first, e.last = first, last }

// Skip notes that part holds no record up to next: a compaction gap, control
// records, an aborted transaction. Nothing of it will ever be written.
func (t *Tracker) Skip(part int, next int64) {
	e := t.Read(part, next, nil)
	t.Done(e)
}

// Hand notes that records of e are about to be handed to the producer for
// slot. It must come before the hand-over.
func (t *Tracker) Hand(e *Entry, slot int) {
	for _, s := range e.slots {
		if s == slot {
			return
		}
	}
	e.slots = append(e.slots, slot)
	e.ends = append(e.ends, 0)
}

// Landed notes that what e handed to slot is acknowledged below end.
func (t *Tracker) Landed(e *Entry, slot int, end int64) {
	for i, s := range e.slots {
		if s == slot && end > e.ends[i] {
			e.ends[i] = end
		}
	}
	if end > t.acked[slot] {
		t.acked[slot] = end
	}
}

// Done notes that all of e is done: written and acknowledged, or filtered. The
// contiguous done prefix of its partition moves the position.
func (t *Tracker) Done(e *Entry) {
	e.done = true
	p := &t.parts[e.part]
	n := 0
	for n < len(p.queue) && p.queue[n].done {
		d := p.queue[n]
		p.queue[n] = nil
		n++
		if d.next > p.next {
			p.next = d.next
		}
		for i, s := range d.slots {
			if d.ends[i] > p.covered[s] {
				p.covered[s] = d.ends[i]
			}
		}
		if d.hasPair {
			p.pairs = addPair(p.pairs, d.pair)
		}
		if !d.last.IsZero() {
			p.last = d.last
		}
	}
	if n > 0 {
		p.queue = p.queue[n:]
		p.dirty = true
	}
}

// addPair keeps MaxPairs samples: all but the last two thin out by half when
// full, so that they reach back further than the last few runs.
func addPair(pairs []Pair, x Pair) []Pair {
	if n := len(pairs); n > 0 && pairs[n-1].Offset >= x.Offset {
		return pairs
	}
	if len(pairs) == MaxPairs {
		kept := pairs[:0]
		for i, q := range pairs {
			if i%2 == 1 || i >= MaxPairs-2 {
				kept = append(kept, q)
			}
		}
		pairs = kept
	}
	return append(pairs, x)
}

// Samples are fingerprints of what was read of part, done or not, the last
// record read among them: with these another source is compared before it is
// read on from there.
func (t *Tracker) Samples(part int) []Pair {
	p := &t.parts[part]
	out := append(make([]Pair, 0, MaxPairs), p.pairs...)
	for _, e := range p.queue {
		if e.hasPair {
			out = addPair(out, e.pair)
		}
	}
	return out
}

// Statement is what a mark may say of a partition at this moment.
type Statement struct {
	Part    int
	Next    int64
	Covered map[int]int64 // by slot
	Pairs   []Pair
}

// State tells what a mark may say of part now. A slot that nothing from Next
// on was handed to is covered up to its highest acknowledged end: whatever
// this partition writes there later comes behind that. So a quiet partition
// beside busy ones does not make the next boot read without bound.
func (t *Tracker) State(part int) Statement {
	p := &t.parts[part]
	s := Statement{Part: part, Next: p.next, Covered: maps.Clone(p.covered), Pairs: append([]Pair(nil), p.pairs...)}
	for slot := range s.Covered {
		if !p.pending(slot) && t.acked[slot] > s.Covered[slot] {
			s.Covered[slot] = t.acked[slot]
		}
	}
	return s
}

func (p *partState) pending(slot int) bool {
	for _, e := range p.queue {
		for _, s := range e.slots {
			if s == slot {
				return true
			}
		}
	}
	return false
}

// Changed returns a statement for each partition whose position moved since
// the last call, and for those whose covered ends have become stale.
func (t *Tracker) Changed() []Statement {
	var out []Statement
	for i := range t.parts {
		p := &t.parts[i]
		if !p.dirty && !t.stale(p) {
			continue
		}
		s := t.State(i)
		p.dirty, p.told = false, s.Covered
		out = append(out, s)
	}
	return out
}

func (t *Tracker) stale(p *partState) bool {
	for slot, told := range p.told {
		if t.acked[slot]-told > staleAfter && !p.pending(slot) {
			return true
		}
	}
	return false
}

// Next is the done position of part.
func (t *Tracker) Next(part int) int64 { return t.parts[part].next }

// Oldest is the timestamp of the first record of part that was read and is not
// done, or of the last one done if there is none; zero before the first.
func (t *Tracker) Oldest(part int) time.Time {
	p := &t.parts[part]
	for _, e := range p.queue {
		if !e.first.IsZero() {
			return e.first
		}
	}
	return p.last
}
