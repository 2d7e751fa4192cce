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
	if len(c.chunk) == 0 {
		var err error
		if c.chunk, err = c.stream.Next(ctx); err != nil || len(c.chunk) == 0 {
			return nil, err
		}
	}
	x := &c.chunk[0]
	if x.Offset >= before {
		return nil, nil
	}
	c.chunk, c.at = c.chunk[1:], x.Offset+1
	return x, nil
}

// takeLate matches a record whose source record has left the window: one that
// was missing then, or a copy of one that was not.
func (w *window) takeLate(ctx context.Context, target int, l *lane, f Found) error {
	if e, ok := w.late[f.SourceOffset]; ok && !f.Guessed {
		w.cameLate(e, target, l, f)
		return nil
	}
	c, anew := l.again, l.again == nil || f.SourceOffset <= l.replay
	switch {
	case anew:
		c = w.cursor(f.SourceOffset)
	case f.SourceOffset < c.at: // what claimed to be further on was not
		c.close()
		c = w.cursor(l.replay + 1)
		l.again = c
	}
	skipped, err := w.passOver(ctx, c, target, f.SourceOffset)
	if err != nil {
		return err
	}
	x, err := c.next(ctx, f.SourceOffset+1)
	if err != nil {
		return fmt.Errorf("reading source partition %s again: %w", w.from.Name, err)
	}
	if !x.explains(f) {
		if anew {
			c.close()
		}
		w.c.foreign(target, f, w.claim(f))
		return nil
	}
	if anew {
		l.again.close()
		l.again, l.owed = c, max(l.owed, w.floor)
	}
	w.leftBehind(target, skipped)
	w.c.rep.Duplicated++
	if !x.has(f.Hash) {
		w.altered(f.SourceOffset, target, f)
	}
	l.replay, l.current = f.SourceOffset, f.SourceOffset
	l.last, l.has = max(l.last, f.Offset), true
	return nil
}

// explains tells whether a target record may have been made from x; nil is
// where the source holds nothing.
func (x *Expected) explains(f Found) bool {
	return x != nil && x.Offset == f.SourceOffset && len(x.Pieces) > 0 && (!f.Guessed || x.has(f.Hash))
}

func (x *Expected) has(hash uint64) bool {
	for _, p := range x.Pieces {
		if p.Hash == hash {
			return true
		}
	}
	return false
}

// cameLate counts a record that was taken for missing as reordered.
func (w *window) cameLate(e late, target int, l *lane, f Found) {
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
	w.note(l, f)
	rep.Reordered++
	rep.example("reordered: source %s offset %d stands at target offset %d, far behind later ones", w.from.Name, e.offset, f.Offset)
	w.match(&e.entry, target, f)
	if e.missing() {
		w.late[e.offset] = e
		return
	}
	delete(w.late, e.offset)
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
	skipped, err := w.passOver(ctx, l.again, target, l.owed)
	w.leftBehind(target, skipped)
	l.again.close()
	l.again, l.replay, l.owed = nil, -1, 0
	return err
}
