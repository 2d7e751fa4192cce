package position

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is a dumb model of a relay and its target: it plays refused batches
// that leave holes, stragglers of killed instances, filtered and split records
// and records of others, over any mapping of one source partition onto target
// partitions, and checks after each restart that nothing before the position
// is missing.
type world struct {
	t      *rapid.T
	n      int // source records, offsets 0..n-1
	pieces []int
	where  []int
	log    [][]entry // per target partition
	late   []flight  // writes of dead instances that may still land
	mark   *Statement
}

type entry struct {
	offset, prev int64 // -1, -1: somebody else's record
}

type flight struct {
	entry
	slot int
	of   *batch
}

// batch is what one ticket handed over.
type batch struct {
	e       *Entry
	left    int
	failed  bool
	touched map[int]int64 // slot -> end of its records
}

func newModelWorld(t *rapid.T) *world {
	w := &world{t: t, n: rapid.IntRange(1, 60).Draw(t, "records")}
	targets := rapid.IntRange(1, 4).Draw(t, "targets")
	w.log = make([][]entry, targets)
	keep := rapid.IntRange(0, 10).Draw(t, "kept of ten")
	for range w.n {
		k := 0
		if rapid.IntRange(0, 9).Draw(t, "keep") < keep {
			k = 1
			if rapid.IntRange(0, 9).Draw(t, "split") == 0 {
				k = rapid.IntRange(2, 3).Draw(t, "pieces")
			}
		}
		w.pieces = append(w.pieces, k)
		w.where = append(w.where, rapid.IntRange(0, targets-1).Draw(t, "slot"))
	}
	return w
}

func (w *world) ends() []int64 {
	ends := make([]int64, len(w.log))
	for i := range w.log {
		ends[i] = int64(len(w.log[i]))
	}
	return ends
}

// seen is the suffix behind the mark.
func (w *world) seen() []Seen {
	var out []Seen
	for slot, log := range w.log {
		for _, e := range log[w.mark.Covered[slot]:] {
			if e.offset >= 0 {
				out = append(out, Seen{e.offset, e.prev})
			}
		}
	}
	return out
}

// dumbProve is the rule by brute force: again and again over all of it.
func dumbProve(next int64, seen []Seen) int64 {
	for again := true; again; {
		again = false
		for _, s := range seen {
			if s.Prev < next && s.Offset >= next {
				next, again = s.Offset+1, true
			}
		}
	}
	return next
}

// check that everything before next that was to be written is in the target.
func (w *world) check(next int64) {
	count := make([]int, w.n)
	for _, log := range w.log {
		for _, e := range log {
			if e.offset >= 0 {
				count[e.offset]++
			}
		}
	}
	for o := range next {
		if count[o] < w.pieces[o] {
			w.t.Fatalf("lost: offset %d has %d of %d pieces in the target, and the position is %d", o, count[o], w.pieces[o], next)
		}
	}
}

// land appends a write to its target partition.
func (w *world) land(f flight) {
	w.log[f.slot] = append(w.log[f.slot], f.entry)
}

// generation runs one instance, or one in-process recovery, until it fails, is
// killed or has done everything. It tells whether everything is done.
func (w *world) generation(next int64) bool {
	t := w.t
	slots := make([]int, len(w.log))
	for i := range slots {
		slots[i] = i
	}
	tr := NewTracker([]PartStart{{Next: next, Slots: slots}}, w.ends())
	m := tr.Changed()[0] // the first mark, acknowledged before any record
	w.mark = &m
	pos, prev := next, next-1
	var flights []flight
	var unacked []*batch
	broken, more := false, 0
	for step := 0; ; step++ {
		switch rapid.SampledFrom([]string{"read", "read", "read", "ack", "ack", "ack", "done", "mark", "refuse", "kill", "foreign", "late", "skip"}).Draw(t, "step") {
		case "read":
			if pos >= int64(w.n) || (broken && more == 0) {
				break
			}
			if broken {
				more--
			}
			to := min(pos+int64(rapid.IntRange(1, 5).Draw(t, "run")), int64(w.n))
			b := &batch{e: tr.Read(0, to, &Pair{Offset: to - 1}), touched: map[int]int64{}}
			for o := pos; o < to; o++ {
				for range w.pieces[o] {
					p := prev
					if w.pieces[o] > 1 {
						p = o
					}
					tr.Hand(b.e, w.where[o])
					flights = append(flights, flight{entry{o, p}, w.where[o], b})
					b.left++
				}
				if w.pieces[o] > 0 {
					prev = o
				}
			}
			pos = to
			unacked = append(unacked, b)
		case "skip": // a stretch without records
			if pos < int64(w.n) && w.pieces[pos] == 0 && !broken {
				pos++
				tr.Skip(0, pos)
			}
		case "ack": // the oldest write of some partition lands
			if i := w.oldest(flights); i >= 0 {
				f := flights[i]
				flights = slices.Delete(flights, i, i+1)
				w.land(f)
				f.of.touched[f.slot] = int64(len(w.log[f.slot]))
				f.of.left--
			}
		case "done": // Benthos acknowledges some batch all of which has landed
			if i := slices.IndexFunc(unacked, func(b *batch) bool { return b.left == 0 && !b.failed }); i >= 0 {
				b := unacked[i]
				unacked = slices.Delete(unacked, i, i+1)
				for slot, end := range b.touched {
					tr.Landed(b.e, slot, end)
				}
				tr.Done(b.e)
			}
		case "mark":
			if c := tr.Changed(); len(c) > 0 {
				w.mark = &c[0]
			}
		case "refuse": // what one partition has under way fails; later hand-overs land
			if i := w.oldest(flights); i >= 0 {
				slot := flights[i].slot
				flights = slices.DeleteFunc(flights, func(f flight) bool {
					if f.slot == slot {
						f.of.failed = true
						f.of.left--
					}
					return f.slot == slot
				})
				if !broken {
					broken, more = true, rapid.IntRange(0, 3).Draw(t, "handed over since")
				}
			}
		case "foreign":
			slot := rapid.IntRange(0, len(w.log)-1).Draw(t, "foreign slot")
			w.land(flight{entry{-1, -1}, slot, nil})
		case "late":
			if len(w.late) > 0 {
				w.land(w.late[0])
				w.late = w.late[1:]
			}
		case "kill": // what is under way lands, lands later, or never
			if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
				break
			}
			gone := map[int]bool{}
			for _, f := range flights {
				switch rapid.IntRange(0, 2).Draw(t, "fate") {
				case 0:
					gone[f.slot] = true
				case 1:
					if !gone[f.slot] {
						w.land(f)
					}
				case 2:
					if !gone[f.slot] {
						w.late = append(w.late, f)
					}
				}
			}
			return false
		}
		if broken && len(flights) == 0 {
			return false
		}
		if pos == int64(w.n) && len(flights) == 0 && len(unacked) == 0 && !broken {
			return true
		}
		if step > 3_000 {
			t.Fatal("a generation does not end")
		}
	}
}

// oldest is the index of a write that is the first of its partition.
func (w *world) oldest(flights []flight) int {
	if len(flights) == 0 {
		return -1
	}
	slot := flights[rapid.IntRange(0, len(flights)-1).Draw(w.t, "which")].slot
	return slices.IndexFunc(flights, func(f flight) bool { return f.slot == slot })
}

// Whatever is refused, lands late, is filtered, split or foreign, and wherever
// it crashes: nothing is lost, and a restart begins at the first unproven
// record.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newModelWorld(t)
		done := false
		for gen := 0; !done; gen++ {
			next := int64(0)
			if w.mark != nil {
				seen := w.seen()
				next = Prove(w.mark.Next, slices.Clone(seen))
				if dumb := dumbProve(w.mark.Next, seen); next != dumb {
					t.Fatalf("Prove says %d, all of it again and again says %d", next, dumb)
				}
			}
			w.check(next)
			if gen > 300 {
				return // bad luck only: no generation was allowed to end
			}
			done = w.generation(next)
		}
		w.check(int64(w.n))
	})
}
