package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Expected is what one source record should have become in the target.
type Expected struct {
	Offset int64
	// Pieces is empty for a record that is filtered, and has several items for
	// one that the pipeline splits.
	Pieces []Piece
	// Failed: a processor failed on it, and the relay stops there.
	Failed bool
	// Optional: it may be missing, being older than what is compared.
	Optional bool
	// Gone: no record, but the news that retention has removed everything up
	// to and including Offset that was not read yet.
	Gone bool
}

// Piece is one target record.
type Piece struct {
	Hash      uint64
	Partition int32
}

// Found is one record of the target.
type Found struct {
	Offset int64
	Claim
	// Else is tried if Claim turns out wrong; nil if there is nothing else.
	Else *Claim
	// Gone, unless 0, is no record, but the news that retention has removed
	// this many offsets, up to and including Offset, before they were read.
	Gone int64
}

// Claim is what a target record may have been made from.
type Claim struct {
	// Source is an index of Work.Sources, -1 for none of them, and SourceOffset
	// the offset there.
	Source       int
	SourceOffset int64
	// Hash is of the record without the header that makes the claim.
	Hash uint64
	// Guessed: nothing says so, but a copy that keeps offsets would be that.
	Guessed bool
}

// Stream gives items in the order of their offsets, a chunk at a time; none at
// its end.
type Stream[T any] interface {
	Next(ctx context.Context) ([]T, error)
	Close()
}

// Work is what is compared at once: a target topic and every source partition
// that feeds it.
type Work struct {
	Sources []Source
	Targets []Target
	// Window is how many source records may be held in memory, altogether.
	Window int
}

// Source is one source partition.
type Source struct {
	Name string
	// Begin and End bound what is compared. Cut says that the source's log, not
	// the user, begins at Begin.
	Begin, End int64
	Cut        bool
	// Latest asks for the source's end now: the target may hold records that
	// were written since the start.
	Latest func(context.Context) (int64, error)
	// Position is the next offset to relay, by the marks; -1 if unknown.
	Position int64
	// Later: the relay began behind the start of the source's log, by
	// start_offset.
	Later bool
	// Open reads the partition from an offset on.
	Open func(from int64) Stream[Expected]
}

// Target is one target partition.
type Target struct {
	Name string
	// Begin and End bound what is read. Removed is how many offsets before Begin
	// retention has removed.
	Begin, End, Removed int64
	Open                func() Stream[Found]
}

// comparison is one Work in progress. It is single-threaded; the streams read
// ahead by themselves.
type comparison struct {
	Work
	rep     *Report
	sources []*window
	targets []*reading
	// room is how many more missing records may be remembered.
	room int
}

// mostMissing bounds the memory of missing records.
const mostMissing = 1 << 16

// reading is a target partition as far as it was read.
type reading struct {
	stream  Stream[Found]
	chunk   []Found // what is left of the chunk read last
	done    bool
	at      int64 // the offset behind the last record
	lanes   map[int]*lane
	removed int64 // offsets that retention removed and nothing accounts for yet
	// origins: records that say what they were made from have begun. From then
	// on others are strangers, unless they are what they are guessed to be.
	origins bool
}

// Compare reads both sides and reports.
func Compare(ctx context.Context, w Work) (*Report, error) {
	return compare(ctx, w, max(minWindow, w.Window/max(1, len(w.Sources))))
}

// compare holds up to window records of each source partition.
func compare(ctx context.Context, w Work, window int) (*Report, error) {
	c := &comparison{Work: w, rep: &Report{}, room: mostMissing}
	for i := range w.Sources {
		c.sources = append(c.sources, newWindow(c, i, window))
	}
	for i, t := range w.Targets {
		c.targets = append(c.targets, &reading{stream: w.Targets[i].Open(), at: t.Begin, lanes: map[int]*lane{}, removed: t.Removed})
	}
	defer c.close()
	for !c.allRead() {
		if err := c.step(ctx); err != nil {
			return nil, err
		}
	}
	for _, s := range c.sources {
		if err := s.finish(ctx); err != nil {
			return nil, err
		}
	}
	return c.rep, nil
}

func (c *comparison) allRead() bool {
	return !slices.ContainsFunc(c.targets, func(t *reading) bool { return !t.done })
}

// step goes on with one target partition: one that a full window waits for, or
// else the one that is furthest behind, by the share of it that was read. If
// each waits for another, the first full window gives way.
func (c *comparison) step(ctx context.Context) error {
	var order []int
	for _, s := range c.sources {
		if t := s.waitsFor(); t >= 0 {
			order = append(order, t)
		}
	}
	first := len(order)
	for i, t := range c.targets {
		if !t.done {
			order = append(order, i)
		}
	}
	slices.SortFunc(order[first:], func(a, b int) int { return cmp.Compare(c.share(a), c.share(b)) })
	for _, i := range order {
		if moved, err := c.pull(ctx, i); moved || err != nil {
			return err
		}
	}
	for _, s := range c.sources {
		if s.waitsFor() >= 0 {
			s.letGo()
			return nil
		}
	}
	return errors.New("verify: nothing moves, which is a bug")
}

func (c *comparison) share(i int) float64 {
	t := &c.Targets[i]
	return float64(c.targets[i].at-t.Begin) / float64(max(1, t.End-t.Begin))
}

func (c *comparison) close() {
	for _, s := range c.sources {
		s.stream.Close()
	}
	for _, t := range c.targets {
		t.stream.Close()
		for _, l := range t.lanes {
			l.again.close()
		}
	}
}

// pull goes on with a target partition, until its chunk is used up or a window
// waits for another one, and tells whether it got anywhere.
func (c *comparison) pull(ctx context.Context, i int) (moved bool, err error) {
	t := c.targets[i]
	if len(t.chunk) == 0 {
		if t.chunk, err = t.stream.Next(ctx); err != nil {
			return false, fmt.Errorf("reading target partition %s: %w", c.Targets[i].Name, err)
		}
	}
	if len(t.chunk) == 0 {
		t.done = true
		for p, l := range t.lanes {
			if err := c.sources[p].endReplay(ctx, i, l); err != nil {
				return true, err
			}
		}
		return true, nil
	}
	for len(t.chunk) > 0 {
		f := t.chunk[0]
		if f.Gone > 0 {
			t.lost(f.Gone)
		} else if taken, err := c.offer(ctx, i, f); !taken || err != nil {
			return moved, err
		} else {
			c.rep.Found++
		}
		t.chunk, t.at, moved = t.chunk[1:], f.Offset+1, true
	}
	return moved, nil
}

// verdict is what becomes of a claim.
type verdict int

const (
	accepted verdict = iota
	waiting          // for another target partition to be read
	refused
)

// offer finds out what a target record is, and tells whether that is settled.
func (c *comparison) offer(ctx context.Context, target int, f Found) (bool, error) {
	why := "says nothing of a source record of the routes"
	for claim := &f.Claim; claim != nil && claim.Source >= 0; {
		s := c.sources[claim.Source]
		strict := claim.Guessed && (f.Else != nil || c.targets[target].origins)
		v, err := s.take(ctx, target, c.targets[target].lane(claim.Source), f.Offset, *claim, strict)
		if err != nil || v != refused {
			c.targets[target].origins = c.targets[target].origins || (v == accepted && !claim.Guessed)
			return v == accepted, err
		}
		why = s.wrong(*claim)
		if claim == f.Else {
			break
		}
		claim = f.Else
	}
	c.rep.Foreign++
	c.rep.example("foreign: target %s offset %d %s", c.Targets[target].Name, f.Offset, why)
	return true, nil
}

func (t *reading) lane(source int) *lane {
	l := t.lanes[source]
	if l == nil {
		l = &lane{first: math.MaxInt64, replay: -1, gapFrom: math.MaxInt64}
		t.lanes[source] = l
	}
	return l
}

// lost notes that retention came by while the partition was read.
func (t *reading) lost(n int64) {
	t.removed += n
	for _, l := range t.lanes {
		if l.gapTo == 0 {
			l.gapFrom = min(l.gapFrom, l.highest)
		}
		l.gapTo = math.MaxInt64 // until the lane goes on
	}
}
