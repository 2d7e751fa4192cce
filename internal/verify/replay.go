package verify

import (
	"context"
	"fmt"
)

// cursor goes through one source partition again, behind the window.
type cursor struct {
	stream Stream[Expected]
	chunk  []Expected
	at     int64 // the offset behind what was returned last
	gone   int64 // the offset up to which retention has removed what it was to read
}

func (w *window) cursor(from int64) *cursor {
	return &cursor{stream: w.from.Open(from), at: from}
}

func (c *cursor) close() {
	if c != nil {
		c.stream.Close()
	}
}

// next returns the next record before an offset, nil if there is none.
func (c *cursor) next(ctx context.Context, before int64) (*Expected, error) {
	for {
		if len(c.chunk) == 0 {
			var err error
			if c.chunk, err = c.stream.Next(ctx); err != nil || len(c.chunk) == 0 {
				return nil, err
			}
		}
		x := &c.chunk[0]
		if x.Gone {
			c.chunk, c.at, c.gone = c.chunk[1:], x.Offset+1, x.Offset+1
			continue
		}
		if x.Offset >= before {
			return nil, nil
		}
		c.chunk, c.at = c.chunk[1:], x.Offset+1
		return x, nil
	}
}

// explains tells whether a target record may have been made from x; nil is
// where the source holds nothing.
func (x *Expected) explains(cl Claim) bool {
	return x != nil && x.Offset == cl.SourceOffset && len(x.Pieces) > 0 && (!cl.Guessed || x.has(cl.Hash))
}

func (x *Expected) has(hash uint64) bool {
	for _, p := range x.Pieces {
		if p.Hash == hash {
			return true
		}
	}
	return false
}

// takeLate matches a record whose source record has left the window: one that
// was missing then, or a copy of one that was not.
func (w *window) takeLate(ctx context.Context, target int, l *lane, at int64, cl Claim) (verdict, error) {
	if e, ok := w.late[cl.SourceOffset]; ok && !cl.Guessed {
		w.cameLate(e, target, l, at, cl)
		return accepted, nil
	}
	if l.again != nil && cl.SourceOffset == l.replay && l.shown.explains(cl) { // a further piece, or copy, of it
		w.copied(&l.shown, target, l, at, cl)
		return accepted, nil
	}
	c, anew := l.again, l.again == nil || cl.SourceOffset <= l.replay
	switch {
	case anew:
		c = w.cursor(cl.SourceOffset)
	case cl.SourceOffset < c.at: // what claimed to be further on was not
		c.close()
		c = w.cursor(l.replay + 1)
		l.again = c
	}
	left, err := w.passOver(ctx, c, target, cl.SourceOffset)
	if err != nil {
		return refused, err
	}
	x, err := c.next(ctx, cl.SourceOffset+1)
	if err != nil {
		return refused, fmt.Errorf("reading source partition %s again: %w", w.from.Name, err)
	}
	known, gone := x.explains(cl), x == nil && c.gone > cl.SourceOffset
	if !known && !gone {
		if anew {
			c.close()
		}
		return refused, nil
	}
	if anew {
		l.again.close()
		l.again, l.owed = c, max(l.owed, w.floor)
	}
	w.leftBehind(target, left)
	l.replay = cl.SourceOffset
	if gone { // nothing to compare with any more
		w.c.rep.Duplicated++
		return accepted, nil
	}
	l.shown = *x
	w.copied(x, target, l, at, cl)
	return accepted, nil
}

// copied counts a copy of a record that has left the window.
func (w *window) copied(x *Expected, target int, l *lane, at int64, cl Claim) {
	w.c.rep.Duplicated++
	if !x.has(cl.Hash) {
		w.altered(cl.SourceOffset, target, at)
	}
	l.current = cl.SourceOffset
	l.last, l.has = max(l.last, at), true
}

// cameLate counts a record that was taken for missing as reordered.
func (w *window) cameLate(e late, target int, l *lane, at int64, cl Claim) {
	rep := w.c.rep
	switch {
	case !e.pending:
		rep.Lost--
	case w.from.Position >= 0:
		rep.Pending--
	case e.offset > w.found: // still taken for the tail
		rep.Pending--
		w.tail--
	default:
		rep.Lost--
	}
	w.note(l, cl)
	rep.Reordered++
	rep.example("reordered: source %s offset %d stands at target offset %d, far behind later ones", w.from.Name, e.offset, at)
	w.match(&e.entry, target, at, cl)
	if e.missing() {
		w.late[e.offset] = e
		return
	}
	delete(w.late, e.offset)
	w.c.room++
}

// skipped are records that a replay leaves out.
type skipped struct {
	n     int64
	first int64 // offset
}

// passOver goes up to an offset and returns what a replay leaves out of a target
// partition by it.
func (w *window) passOver(ctx context.Context, c *cursor, target int, to int64) (out skipped, err error) {
	for {
		x, err := c.next(ctx, to)
		if err != nil || x == nil {
			return out, err
		}
		if _, missing := w.late[x.Offset]; missing {
			continue
		}
		for _, p := range x.Pieces {
			if int(p.Partition) != target {
				continue
			}
			if out.n++; out.n == 1 {
				out.first = x.Offset
			}
		}
	}
}

// leftBehind counts what a replay left out: it stands before a copy of what
// was before it.
func (w *window) leftBehind(target int, s skipped) {
	if s.n > 0 {
		w.c.rep.Reordered += s.n
		w.c.rep.example("reordered: source %s offset %d stands before a copy of an earlier one in target %s", w.from.Name, s.first, w.c.Targets[target].Name)
	}
}

// endReplay ends a replay where the lane goes on within the window, or ends.
func (w *window) endReplay(ctx context.Context, target int, l *lane) error {
	if l.again == nil {
		return nil
	}
	left, err := w.passOver(ctx, l.again, target, l.owed)
	w.leftBehind(target, left)
	l.again.close()
	l.again, l.replay, l.owed = nil, -1, 0
	return err
}
