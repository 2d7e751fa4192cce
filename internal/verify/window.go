package verify

import (
	"context"
	"fmt"
	"math"
	"sort"
	"time"
)

// minWindow is what each source partition may hold at least.
const minWindow = 1024

// lane is what one target partition has shown of one source partition.
type lane struct {
	// first, highest and current are source offsets found; below highest,
	// current is in a stretch that is there again.
	first, highest, current int64
	// last is the target offset of the latest copy, going by source offset, of
	// what has left the window; the copies behind it must stand behind it.
	last int64
	has  bool
	// gapFrom and gapTo enclose source offsets that retention may have removed
	// from the target while it was read.
	gapFrom, gapTo int64
	// replay is the source offset found last among those that have left the
	// window, while such a stretch repeats itself; -1 outside of one; again
	// reads the source behind it, and shown is what it showed last.
	replay int64
	again  *cursor
	shown  Expected
	// owed is how far the stretch has to go for nothing to be left out of order.
	owed int64
}

// entry is one expected record in the window.
type entry struct {
	offset   int64
	whole    piece
	pieces   []piece // of a record that was split, instead of whole
	optional bool
}

type piece struct {
	Piece
	copies int32
	at     int64 // target offset of the last copy; -1 where it is misplaced
}

func (e *entry) weight() int { return max(1, len(e.pieces)) }

func (e *entry) missing() bool {
	for i := range e.pieces {
		if e.pieces[i].copies == 0 {
			return true
		}
	}
	return len(e.pieces) == 0 && e.whole.copies == 0
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
	// have been read. held is their weight.
	entries []entry
	head    int
	held    int
	floor   int64
	read    int64
	// first and found are the lowest and the highest source offset found
	// anywhere; -1 before.
	first, found int64
	// goneFrom up to goneTo was removed from the source while it was read.
	goneFrom, goneTo int64
	// late are records that left the window without having been found.
	late map[int64]late
	// tail counts the missing ones behind found, where no mark tells how far
	// the relay has come.
	tail int64
	// latest is the source's end as asked last, for what is beyond its end at
	// the start.
	latest int64
	asked  time.Time
}

// late is an entry that was missing when it left the window.
type late struct {
	entry
	pending bool
}

func newWindow(c *comparison, index, most int) *window {
	from := &c.Sources[index]
	return &window{c: c, index: index, from: from, stream: from.Open(from.Begin), most: most, first: -1, found: -1, latest: from.End}
}

func (w *window) size() int { return len(w.entries) - w.head }

// take matches one claim of a target record. It waits while the window is full
// and another target partition is to be read first. A strict claim has to be
// what it is guessed to be.
func (w *window) take(ctx context.Context, target int, l *lane, at int64, cl Claim, strict bool) (verdict, error) {
	switch {
	case strict && (cl.SourceOffset < w.from.Begin || cl.SourceOffset >= w.from.End):
		return refused, nil
	case cl.Guessed && w.c.targets[target].origins && cl.SourceOffset >= w.read: // not read on for
		return refused, nil
	case cl.SourceOffset < w.from.Begin:
		if w.from.Cut {
			w.c.rep.Expired++
		}
		return accepted, nil
	case cl.SourceOffset >= w.from.End:
		return w.beyond(ctx, cl)
	}
	if cl.SourceOffset >= w.floor && !cl.Guessed {
		if err := w.endReplay(ctx, target, l); err != nil {
			return refused, err
		}
	}
	if v, err := w.reach(ctx, target, l, cl); v != accepted || err != nil {
		return v, err
	}
	switch {
	case cl.SourceOffset >= w.goneFrom && cl.SourceOffset < w.goneTo:
		w.c.rep.Expired++
		return accepted, nil
	case cl.SourceOffset < w.floor:
		return w.takeLate(ctx, target, l, at, cl)
	}
	i := w.head + sort.Search(w.size(), func(i int) bool { return w.entries[w.head+i].offset >= cl.SourceOffset })
	if i == len(w.entries) || w.entries[i].offset != cl.SourceOffset || (cl.Guessed && w.entries[i].whole.Hash != cl.Hash) {
		return refused, nil
	}
	w.note(l, cl)
	w.match(&w.entries[i], target, at, cl)
	return accepted, nil
}

// reach reads the source up to what is claimed.
func (w *window) reach(ctx context.Context, target int, l *lane, cl Claim) (verdict, error) {
	for !w.ended && w.read <= cl.SourceOffset {
		switch waits := w.waitsFor(); {
		case waits == target: // has the lane passed it, or is this one made up?
			if genuine, err := w.peek(ctx, cl); err != nil || !genuine {
				return refused, err
			}
			l.current, l.highest = cl.SourceOffset, max(l.highest, cl.SourceOffset)
			w.release()
		case waits >= 0:
			return waiting, nil
		default:
			if err := w.readOne(ctx); err != nil {
				return refused, err
			}
		}
	}
	return accepted, nil
}

// peek tells, far ahead of the window, whether the source explains a claim.
func (w *window) peek(ctx context.Context, cl Claim) (bool, error) {
	c := w.cursor(cl.SourceOffset)
	defer c.close()
	x, err := c.next(ctx, cl.SourceOffset+1)
	return x.explains(cl), err
}

// latestEvery bounds how often the source is asked for its end.
const latestEvery = time.Second

// beyond passes over a record that was written to the source after the start,
// if it was.
func (w *window) beyond(ctx context.Context, cl Claim) (v verdict, err error) {
	if cl.SourceOffset >= w.latest && w.from.Latest != nil && time.Since(w.asked) > latestEvery {
		if w.latest, err = w.from.Latest(ctx); err != nil {
			return refused, err
		}
		w.asked = time.Now()
	}
	if cl.SourceOffset >= w.latest {
		return refused, nil
	}
	w.c.rep.Found--
	return accepted, nil
}

// wrong says why a claim was refused.
func (w *window) wrong(cl Claim) string {
	switch {
	case cl.Guessed:
		return fmt.Sprintf("has no origin and is not the record of source %s at its offset", w.from.Name)
	case cl.SourceOffset >= w.from.End:
		return fmt.Sprintf("claims source %s offset %d, which lies beyond its end: that source may be short", w.from.Name, cl.SourceOffset)
	}
	return fmt.Sprintf("claims source %s offset %d, where nothing is expected", w.from.Name, cl.SourceOffset)
}

func (w *window) note(l *lane, cl Claim) {
	at := cl.SourceOffset
	if l.gapFrom < at && l.gapTo > at {
		l.gapTo = at
	}
	l.first, l.current, l.highest = min(l.first, at), at, max(l.highest, at)
	if w.first < 0 || at < w.first {
		w.first = at
	}
	if at <= w.found {
		return
	}
	w.found = at
	w.c.rep.Lost += w.tail // they were passed after all
	w.c.rep.Pending -= w.tail
	w.tail = 0
}

// match counts a copy of an entry.
func (w *window) match(e *entry, target int, at int64, cl Claim) {
	p := &e.whole
	if len(e.pieces) > 0 {
		p = e.best(target, cl)
	}
	if p.copies++; p.copies > 1 {
		w.c.rep.Duplicated++
	}
	p.at = at
	if p.Hash != cl.Hash {
		w.altered(e.offset, target, at)
	}
	if int(p.Partition) != target {
		p.at = -1
		w.misplaced(e.offset, p.Partition, target, at)
	}
}

// best is the piece that fits best: the same one, in its partition if
// there are several, or else one that is missing.
func (e *entry) best(target int, cl Claim) *piece {
	best, points := 0, -1
	for i := range e.pieces {
		p := &e.pieces[i]
		n, here, missing := 0, 1, 2
		if p.Hash == cl.Hash {
			n, here, missing = 4, 2, 1
		}
		if int(p.Partition) == target {
			n += here
		}
		if p.copies == 0 {
			n += missing
		}
		if n > points || (n == points && p.copies < e.pieces[best].copies) {
			best, points = i, n
		}
	}
	return &e.pieces[best]
}

func (w *window) altered(offset int64, target int, at int64) {
	w.c.rep.Altered++
	w.c.rep.example("altered: source %s offset %d at target %s offset %d", w.from.Name, offset, w.c.Targets[target].Name, at)
}

func (w *window) misplaced(offset int64, belongs int32, target int, at int64) {
	w.c.rep.Misplaced++
	w.c.rep.example("misplaced: source %s offset %d belongs to target partition %d and stands in %s at offset %d", w.from.Name, offset, belongs, w.c.Targets[target].Name, at)
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
	if x.Gone {
		if w.goneTo == 0 {
			w.goneFrom = w.read
		}
		w.read, w.goneTo = x.Offset+1, x.Offset+1
		return nil
	}
	w.read = x.Offset + 1
	w.c.rep.Expected += int64(len(x.Pieces))
	e := entry{offset: x.Offset, optional: x.Optional}
	switch {
	case x.Failed:
		w.c.rep.Failed++
		w.c.rep.example("failed: a processor fails on source %s offset %d, where the relay stops", w.from.Name, x.Offset)
		return nil
	case len(x.Pieces) == 0:
		w.c.rep.Filtered++
		return nil
	case len(x.Pieces) == 1:
		e.whole.Piece = x.Pieces[0]
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
	w.held += e.weight()
}

// release lets the oldest entries of a full window go, up to one that may still
// be found.
func (w *window) release() {
	for w.held > w.most && w.waitsFor() < 0 {
		w.letGo()
	}
}

// waitsFor is the target partition whose turn it is to show the oldest entry of
// a full window, -1 if there is none.
func (w *window) waitsFor() int {
	if w.held <= w.most {
		return -1
	}
	e := &w.entries[w.head]
	if len(e.pieces) == 0 {
		return w.behind(&e.whole, e.offset)
	}
	for i := range e.pieces {
		if t := w.behind(&e.pieces[i], e.offset); t >= 0 {
			return t
		}
	}
	return -1
}

// behind tells whether a target partition may yet show an offset: it has not
// come to it, or it repeats what was before it.
func (w *window) behind(p *piece, offset int64) int {
	target := p.Partition
	if int(target) >= len(w.c.targets) {
		return -1
	}
	t := w.c.targets[target]
	switch l := t.lanes[w.index]; {
	case t.done:
		return -1
	case l != nil && l.current < l.highest && offset > l.current:
		return int(target)
	case p.copies > 0 || (l != nil && l.highest > offset):
		return -1
	}
	return int(target)
}

// letGo judges the oldest entry and takes it out.
func (w *window) letGo() {
	e := &w.entries[w.head]
	w.head++
	w.held -= e.weight()
	w.floor = e.offset + 1
	if len(e.pieces) == 0 {
		w.judge(e, &e.whole)
		return
	}
	for i := range e.pieces {
		w.judge(e, &e.pieces[i])
	}
}

func (w *window) judge(e *entry, p *piece) {
	rep := w.c.rep
	if p.copies == 0 {
		w.judgeMissing(e, p.Partition)
		return
	}
	if p.at < 0 {
		return // misplaced, and counted as such
	}
	switch l := w.c.targets[p.Partition].lanes[w.index]; {
	case l.has && p.at < l.last:
		rep.Reordered++
		rep.example("reordered: source %s offset %d stands at target offset %d, one before it at %d", w.from.Name, e.offset, p.at, l.last)
	default:
		l.last, l.has = p.at, true
	}
}

// judgeMissing tells why a record is not there.
func (w *window) judgeMissing(e *entry, target int32) {
	rep := w.c.rep
	marked := w.from.Position >= 0
	passed := marked && e.offset < w.from.Position
	switch {
	case e.optional:
		rep.Expected--
		return
	case (passed || !marked) && w.removed(e.offset, target, passed):
		rep.Expired++ // by retention, in the target
		return
	case w.from.Later && (passed || !marked) && w.first >= 0 && e.offset < w.first:
		rep.Before++
		return
	}
	pending := marked && !passed
	if !marked && e.offset > w.found { // unless something behind it turns up yet
		pending = true
		w.tail++
	}
	if pending {
		rep.Pending++
	} else {
		rep.Lost++
		rep.example("lost: source %s offset %d", w.from.Name, e.offset)
	}
	if w.c.room == 0 {
		return
	}
	w.c.room--
	if w.late == nil {
		w.late = map[int64]late{}
	}
	w.late[e.offset] = late{*e, pending}
}

// removed tells whether retention can have removed a record from the target,
// and takes it off what was removed there.
func (w *window) removed(offset int64, target int32, passed bool) bool {
	if int(target) >= len(w.c.targets) {
		return false
	}
	t := w.c.targets[target]
	if t.removed == 0 {
		return false
	}
	can := passed // where nothing of the source is left, only the mark tells
	if l := t.lanes[w.index]; l != nil && l.first < math.MaxInt64 {
		can = offset < l.first || (offset > l.gapFrom && offset < l.gapTo)
	}
	if can {
		t.removed--
	}
	return can
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
