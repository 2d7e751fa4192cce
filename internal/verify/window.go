package verify

import (
	"context"
	"fmt"
	"sort"
)

// minWindow is what each source partition may hold at least.
const minWindow = 4096

// lane is what one target partition has shown of one source partition.
type lane struct {
	// first, highest and current are source offsets found; below highest,
	// current is in a stretch that is there again.
	first, highest, current int64
	// last is the target offset of the latest copy, going by source offset, of
	// what has left the window; the copies behind it must stand behind it.
	last int64
	has  bool
	// replay is the source offset found last among those that have left the
	// window, while such a stretch repeats itself; -1 outside of one; again
	// reads the source behind it.
	replay int64
	again  *cursor
	// owed is how far the stretch has to go for nothing to be left out of order.
	owed int64
}

// entry is one expected record in the window.
type entry struct {
	offset int64
	hash   uint64
	at     int64 // target offset of the last copy; -1 where it is misplaced
	target int32
	copies int32
	pieces []piece // of a record that was split, instead of hash and target
}

type piece struct {
	Piece
	copies int32
	at     int64
}

func (e *entry) missing() bool {
	for i := range e.pieces {
		if e.pieces[i].copies == 0 {
			return true
		}
	}
	return len(e.pieces) == 0 && e.copies == 0
}

// window is one source partition: what was read of it and may still be found.
type window struct {
	c      *comparison
	index  int
	from   *Source
	stream Stream[Expected]
	chunk  []Expected // what is left of the chunk read last
	ended  bool
	most   int
	// entries by rising offset; all before floor have left, all before read
	// have been read.
	entries []entry
	head    int
	floor   int64
	read    int64
	found   int64 // highest source offset found anywhere
	// late are records that left the window without having been found.
	late map[int64]late
	// tail counts the missing ones behind found, where no mark tells how far
	// the relay has come.
	tail int64
	// latest is the source's end as asked last, for what is beyond its end at
	// the start.
	latest int64
}

// late is an entry that was missing when it left the window.
type late struct {
	entry
	pending bool
}

// mostLate bounds the memory of late records.
const mostLate = 1 << 16

func newWindow(c *comparison, index, most int) *window {
	from := &c.Sources[index]
	return &window{c: c, index: index, from: from, stream: from.Open(from.Begin), most: most, found: -1, latest: from.End}
}

func (w *window) size() int { return len(w.entries) - w.head }

// take matches one target record. It is not taken while the window is full and
// waits for another target partition.
func (w *window) take(ctx context.Context, target int, l *lane, f Found) (taken bool, err error) {
	switch {
	case f.SourceOffset < w.from.Begin:
		if w.from.Cut {
			w.c.rep.Expired++
		}
		return true, nil
	case f.SourceOffset >= w.from.End:
		return true, w.beyond(ctx, target, f)
	}
	if f.SourceOffset >= w.floor {
		if err := w.endReplay(ctx, target, l); err != nil {
			return false, err
		}
	}
	for !w.ended && w.read <= f.SourceOffset {
		if waits := w.waitsFor(); waits == target { // has the lane passed it, or is this one made up?
			if genuine, err := w.peek(ctx, f); err != nil || !genuine {
				if err == nil {
					w.c.foreign(target, f, w.claim(f))
				}
				return true, err
			}
			l.current, l.highest = f.SourceOffset, max(l.highest, f.SourceOffset)
			w.release()
			continue
		} else if waits >= 0 {
			return false, nil
		}
		if err := w.readOne(ctx); err != nil {
			return false, err
		}
	}
	if f.SourceOffset < w.floor {
		return true, w.takeLate(ctx, target, l, f)
	}
	i := w.head + sort.Search(w.size(), func(i int) bool { return w.entries[w.head+i].offset >= f.SourceOffset })
	if i == len(w.entries) || w.entries[i].offset != f.SourceOffset || (f.Guessed && w.entries[i].hash != f.Hash) {
		w.c.foreign(target, f, w.claim(f))
		return true, nil
	}
	w.note(l, f)
	w.match(&w.entries[i], target, f)
	return true, nil
}

// peek tells, far ahead of the window, whether the source explains a record.
func (w *window) peek(ctx context.Context, f Found) (bool, error) {
	c := w.cursor(f.SourceOffset)
	defer c.close()
	x, err := c.next(ctx, f.SourceOffset+1)
	return x.explains(f), err
}

// beyond passes over a record that was written to the source after the start,
// if it was.
func (w *window) beyond(ctx context.Context, target int, f Found) (err error) {
	if f.SourceOffset >= w.latest && w.from.Latest != nil {
		if w.latest, err = w.from.Latest(ctx); err != nil {
			return err
		}
	}
	if f.SourceOffset >= w.latest {
		w.c.foreign(target, f, fmt.Sprintf("claims source %s offset %d, which lies beyond its end", w.from.Name, f.SourceOffset))
		return nil
	}
	w.c.rep.Found--
	return nil
}

func (w *window) claim(f Found) string {
	if f.Guessed {
		return fmt.Sprintf("has no origin and is not the record of source %s at its offset", w.from.Name)
	}
	return fmt.Sprintf("claims source %s offset %d, where nothing is expected", w.from.Name, f.SourceOffset)
}

func (w *window) note(l *lane, f Found) {
	l.first, l.current, l.highest = min(l.first, f.SourceOffset), f.SourceOffset, max(l.highest, f.SourceOffset)
	if f.SourceOffset <= w.found {
		return
	}
	w.found = f.SourceOffset
	w.c.rep.Lost += w.tail // they were passed after all
	w.c.rep.Pending -= w.tail
	w.tail = 0
}

// match counts a copy of an entry.
func (w *window) match(e *entry, target int, f Found) {
	rep := w.c.rep
	if len(e.pieces) > 0 {
		w.matchPiece(e, target, f)
		return
	}
	if e.copies++; e.copies > 1 {
		rep.Duplicated++
	}
	e.at = f.Offset
	if e.hash != f.Hash {
		w.altered(e.offset, target, f)
	}
	if int(e.target) != target {
		e.at = -1
		w.misplaced(e.offset, e.target, target, f)
	}
}

// matchPiece takes the piece that fits best: the same one, then one in another
// partition, then any that is missing.
func (w *window) matchPiece(e *entry, target int, f Found) {
	best, points := 0, -1
	for i := range e.pieces {
		p := &e.pieces[i]
		n := 0
		if p.Hash == f.Hash {
			n += 4
		}
		if int(p.Partition) == target {
			n += 2
		}
		if p.copies == 0 {
			n++
		}
		if n > points || (n == points && p.copies < e.pieces[best].copies) {
			best, points = i, n
		}
	}
	p := &e.pieces[best]
	if p.copies++; p.copies > 1 {
		w.c.rep.Duplicated++
	}
	p.at = f.Offset
	if p.Hash != f.Hash {
		w.altered(e.offset, target, f)
	} else if int(p.Partition) != target {
		p.at = -1
		w.misplaced(e.offset, p.Partition, target, f)
	}
}

func (w *window) altered(offset int64, target int, f Found) {
	w.c.rep.Altered++
	w.c.rep.example("altered: source %s offset %d at target %s offset %d", w.from.Name, offset, w.c.Targets[target].Name, f.Offset)
}

func (w *window) misplaced(offset int64, belongs int32, target int, f Found) {
	w.c.rep.Misplaced++
	w.c.rep.example("misplaced: source %s offset %d belongs to target partition %d and stands in %s at offset %d", w.from.Name, offset, belongs, w.c.Targets[target].Name, f.Offset)
}

// readOne reads one source record, and lets go of what is settled.
func (w *window) readOne(ctx context.Context) error {
	if len(w.chunk) == 0 {
		var err error
		if w.chunk, err = w.stream.Next(ctx); err != nil {
			return fmt.Errorf("reading source partition %s: %w", w.from.Name, err)
		}
	}
	if len(w.chunk) == 0 {
		w.ended = true
		return nil
	}
	x := &w.chunk[0]
	w.chunk = w.chunk[1:]
	w.read = x.Offset + 1
	w.c.rep.Expected += int64(len(x.Pieces))
	e := entry{offset: x.Offset}
	switch len(x.Pieces) {
	case 0:
		w.c.rep.Filtered++
		return nil
	case 1:
		e.hash, e.target = x.Pieces[0].Hash, x.Pieces[0].Partition
	default:
		for _, p := range x.Pieces {
			e.pieces = append(e.pieces, piece{Piece: p})
		}
	}
	w.push(e)
	w.release()
	return nil
}

// push appends an entry. Room at the front is used again once it is half.
func (w *window) push(e entry) {
	if len(w.entries) == cap(w.entries) && w.head > len(w.entries)/2 {
		w.entries = append(w.entries[:0], w.entries[w.head:]...)
		w.head = 0
	}
	w.entries = append(w.entries, e)
}

// release lets the oldest entries of a full window go, up to one that may still
// be found.
func (w *window) release() {
	for w.size() > w.most && w.waitsFor() < 0 {
		w.letGo()
	}
}

// waitsFor is the target partition whose turn it is to show the oldest entry of
// a full window, -1 if there is none.
func (w *window) waitsFor() int {
	if w.size() <= w.most {
		return -1
	}
	e := &w.entries[w.head]
	if len(e.pieces) == 0 {
		return w.behind(e.target, e.copies, e.offset)
	}
	for _, p := range e.pieces {
		if t := w.behind(p.Partition, p.copies, e.offset); t >= 0 {
			return t
		}
	}
	return -1
}

// behind tells whether a target partition may yet show an offset: it has not
// come to it, or it repeats what was before it.
func (w *window) behind(target, copies int32, offset int64) int {
	if int(target) >= len(w.c.targets) {
		return -1
	}
	t := w.c.targets[target]
	switch l := t.lanes[w.index]; {
	case t.done:
		return -1
	case l != nil && l.current < l.highest && offset > l.current:
		return int(target)
	case copies > 0 || (l != nil && l.highest > offset):
		return -1
	}
	return int(target)
}

// letGo judges the oldest entry and takes it out.
func (w *window) letGo() {
	e := &w.entries[w.head]
	w.head++
	w.floor = e.offset + 1
	if len(e.pieces) == 0 {
		w.judge(e, e.target, e.copies, e.at)
		return
	}
	for _, p := range e.pieces {
		w.judge(e, p.Partition, p.copies, p.at)
	}
}

func (w *window) judge(e *entry, target, copies int32, at int64) {
	rep := w.c.rep
	if copies == 0 {
		w.judgeMissing(e, target)
		return
	}
	if at < 0 {
		return // misplaced, and counted as such
	}
	switch l := w.c.targets[target].lanes[w.index]; {
	case l.has && at < l.last:
		rep.Reordered++
		rep.example("reordered: source %s offset %d stands at target offset %d, one before it at %d", w.from.Name, e.offset, at, l.last)
	default:
		l.last, l.has = at, true
	}
}

func (w *window) judgeMissing(e *entry, target int32) {
	rep := w.c.rep
	if int(target) < len(w.c.targets) && w.c.Targets[target].Cut {
		if l := w.c.targets[target].lanes[w.index]; l == nil || e.offset < l.first {
			rep.Expired++ // retention has passed it in the target
			return
		}
	}
	pending := e.offset >= w.from.Position
	if w.from.Position < 0 { // unless something behind it turns up yet
		if pending = e.offset > w.found; pending {
			w.tail++
		}
	}
	if pending {
		rep.Pending++
	} else {
		rep.Lost++
		rep.example("lost: source %s offset %d", w.from.Name, e.offset)
	}
	if w.late == nil {
		w.late = map[int64]late{}
	}
	if len(w.late) < mostLate {
		w.late[e.offset] = late{*e, pending}
	}
}

// finish reads the rest of the source and judges what is left.
func (w *window) finish(ctx context.Context) error {
	for {
		for w.size() > 0 {
			w.letGo()
		}
		if w.ended {
			return nil
		}
		if err := w.readOne(ctx); err != nil {
			return err
		}
	}
}
