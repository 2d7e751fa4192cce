package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The model keeps everything in memory and asks the plain questions. It knows
// nothing of windows, streams or replays.

type place struct {
	target int
	at     int64
	hash   uint64
}

// ask compares fully: found holds, per target partition, its records.
func ask(expected [][]Expected, found [][]Found) Report {
	var rep Report
	for s, part := range expected {
		copies := map[int64][]place{}
		for t, records := range found {
			for _, f := range records {
				if f.Source == s {
					copies[f.SourceOffset] = append(copies[f.SourceOffset], place{t, f.Offset, f.Hash})
				}
			}
		}
		highest := int64(-1)
		for o := range copies {
			if known(part, o) {
				highest = max(highest, o)
			}
		}
		last := map[int]int64{}
		for _, x := range part {
			rep.Expected += int64(len(x.Pieces))
			if len(x.Pieces) == 0 {
				rep.Filtered++
				continue
			}
			want := x.Pieces[0]
			got := copies[x.Offset]
			if len(got) == 0 {
				if x.Offset > highest {
					rep.Pending++
				} else {
					rep.Lost++
				}
				continue
			}
			rep.Duplicated += int64(len(got) - 1)
			for _, p := range got {
				if p.hash != want.Hash {
					rep.Altered++
				}
			}
			at := got[len(got)-1]
			if before, ok := last[at.target]; ok && at.at < before {
				rep.Reordered++
				continue
			}
			last[at.target] = at.at
		}
	}
	for _, records := range found {
		rep.Found += int64(len(records))
		for _, f := range records {
			if f.Source < 0 || !known(expected[f.Source], f.SourceOffset) {
				rep.Foreign++
			}
		}
	}
	return rep
}

func known(part []Expected, offset int64) bool {
	i, ok := slices.BinarySearchFunc(part, offset, func(x Expected, o int64) int { return int(x.Offset - o) })
	return ok && len(part[i].Pieces) > 0
}

// slices as streams, in chunks.
type listed[T any] struct {
	items []T
	chunk int
}

func (l *listed[T]) Next(context.Context) ([]T, error) {
	n := min(l.chunk, len(l.items))
	out := l.items[:n]
	l.items = l.items[n:]
	return out, nil
}

func (l *listed[T]) Close() {}

func workOf(expected [][]Expected, found [][]Found, window, chunk int) Work {
	w := Work{Window: window}
	for i, part := range expected {
		end := int64(0)
		if len(part) > 0 {
			end = part[len(part)-1].Offset + 1
		}
		w.Sources = append(w.Sources, Source{
			Name: fmt.Sprintf("s/%d", i), End: end, Position: -1,
			Open: func(from int64) Stream[Expected] {
				rest := part[sortSearch(part, from):]
				return &listed[Expected]{rest, chunk}
			},
		})
	}
	for i, records := range found {
		w.Targets = append(w.Targets, Target{
			Name: fmt.Sprintf("t/%d", i), End: int64(len(records)),
			Open: func() Stream[Found] { return &listed[Found]{records, chunk} },
		})
	}
	return w
}

func sortSearch(part []Expected, from int64) int {
	i, _ := slices.BinarySearchFunc(part, from, func(x Expected, o int64) int { return int(x.Offset - o) })
	return i
}

// history makes up a source and what a relay with faults left in the target:
// records in order, some lost, repeated from an earlier one on, swapped,
// altered or made up.
func history(seed uint64, sources, targets, records, faults int) ([][]Expected, [][]Found) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	expected := make([][]Expected, sources)
	type item struct {
		source int
		x      Expected
	}
	var order []item
	for n := range records {
		s := rnd.IntN(sources)
		offset := int64(0)
		if k := len(expected[s]); k > 0 {
			offset = expected[s][k-1].Offset + 1 + int64(rnd.IntN(2))
		}
		x := Expected{Offset: offset}
		if rnd.IntN(5) > 0 {
			x.Pieces = []Piece{{Hash: uint64(n + 1), Partition: int32(rnd.IntN(targets))}}
		}
		expected[s] = append(expected[s], x)
		order = append(order, item{s, x})
	}
	found := make([][]Found, targets)
	write := func(i item, hash uint64) {
		t := i.x.Pieces[0].Partition
		found[t] = append(found[t], Found{Offset: int64(len(found[t])), Claim: Claim{Source: i.source, SourceOffset: i.x.Offset, Hash: hash}})
	}
	fault := func(n int) bool { return faults > 0 && rnd.IntN(records) < faults && n > 0 }
	for n := 0; n < len(order); n++ {
		i := order[n]
		if len(i.x.Pieces) == 0 {
			continue
		}
		kind := -1
		if fault(n) {
			kind = rnd.IntN(5)
		}
		switch kind {
		case 0: // lost
		case 1: // altered
			write(i, 1<<60)
		case 2: // made up
			t, s, at := rnd.IntN(targets), rnd.IntN(sources+1)-1, int64(rnd.IntN(2*records))
			if s < 0 || !known(expected[s], at) {
				found[t] = append(found[t], Found{Offset: int64(len(found[t])), Claim: Claim{Source: s, SourceOffset: at, Hash: 5}})
			}
			write(i, i.x.Pieces[0].Hash)
		case 3: // an old copy, and nothing behind it
			if old := order[rnd.IntN(n)]; len(old.x.Pieces) > 0 {
				write(old, old.x.Pieces[0].Hash)
			}
			write(i, i.x.Pieces[0].Hash)
		default:
			write(i, i.x.Pieces[0].Hash)
		}
		if fault(n) { // read back, and written again from there on
			n -= rnd.IntN(min(n, records/3+1)) + 1
			faults--
		}
	}
	return expected, found
}

// With a window that holds everything, the comparison counts what the model
// counts; with a tiny one it still finds the same losses, copies, alterations
// and strangers, and calls nothing equal that is not.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sources, targets := rapid.IntRange(1, 3).Draw(t, "sources"), rapid.IntRange(1, 3).Draw(t, "targets")
		expected, found := history(rapid.Uint64().Draw(t, "seed"), sources, targets, rapid.IntRange(1, 200).Draw(t, "records"), rapid.IntRange(0, 6).Draw(t, "faults"))
		want := ask(expected, found)
		chunk := rapid.IntRange(1, 20).Draw(t, "chunk")

		got, err := Compare(context.Background(), workOf(expected, found, 1<<20, chunk))
		if err != nil {
			t.Fatal(err)
		}
		got.Examples = nil
		if fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Fatalf("wide window:\n got %+v\nwant %+v", *got, want)
		}
		tiny, err := compare(context.Background(), workOf(expected, found, 1, chunk), rapid.IntRange(1, 9).Draw(t, "window"))
		if err != nil {
			t.Fatal(err)
		}
		if tiny.Equal() != want.Equal() {
			t.Fatalf("tiny window: equal %v, the model says %v\n got %+v\nwant %+v", tiny.Equal(), want.Equal(), *tiny, want)
		}
		for _, c := range []struct {
			what      string
			got, want int64
		}{
			{"lost", tiny.Lost, want.Lost}, {"pending", tiny.Pending, want.Pending}, {"duplicated", tiny.Duplicated, want.Duplicated},
			{"altered", tiny.Altered, want.Altered}, {"foreign", tiny.Foreign, want.Foreign}, {"found", tiny.Found, want.Found}, {"expected", tiny.Expected, want.Expected},
		} {
			if c.got != c.want {
				t.Fatalf("tiny window: %s %d, the model says %d\n got %+v\nwant %+v", c.what, c.got, c.want, *tiny, want)
			}
		}
		// What a later repetition puts right again is out of a tiny window's
		// sight, and one that waits in vain for what is lost has to give way.
		if tiny.Reordered == 0 && want.Reordered > 0 {
			t.Fatalf("tiny window: reordered %d, the model says %d", tiny.Reordered, want.Reordered)
		}
	})
}

// A record that the pipeline splits is expected as all its pieces, wherever
// they go.
func TestPieces(t *testing.T) {
	expected := [][]Expected{{
		{Offset: 0, Pieces: []Piece{{1, 0}, {2, 1}, {3, 0}}},
		{Offset: 1, Pieces: []Piece{{4, 0}}},
	}}
	at := func(_ int, source int64, hash uint64, offset int64) Found {
		return Found{Offset: offset, Claim: Claim{SourceOffset: source, Hash: hash}}
	}
	for name, c := range map[string]struct {
		found [][]Found
		want  Report
	}{
		"all":               {[][]Found{{at(0, 0, 1, 0), at(0, 0, 3, 1), at(0, 1, 4, 2)}, {at(1, 0, 2, 0)}}, Report{Expected: 4, Found: 4}},
		"one lost":          {[][]Found{{at(0, 0, 1, 0), at(0, 1, 4, 1)}, {at(1, 0, 2, 0)}}, Report{Expected: 4, Found: 3, Lost: 1}},
		"one twice":         {[][]Found{{at(0, 0, 1, 0), at(0, 0, 3, 1), at(0, 0, 3, 2), at(0, 1, 4, 3)}, {at(1, 0, 2, 0)}}, Report{Expected: 4, Found: 5, Duplicated: 1}},
		"elsewhere":         {[][]Found{{at(0, 0, 1, 0), at(0, 0, 3, 1), at(0, 0, 2, 2), at(0, 1, 4, 3)}, {}}, Report{Expected: 4, Found: 4, Misplaced: 1}},
		"altered elsewhere": {[][]Found{{at(0, 0, 1, 0), at(0, 0, 3, 1), at(0, 0, 9, 2), at(0, 1, 4, 3)}, {}}, Report{Expected: 4, Found: 4, Altered: 1, Misplaced: 1}},
		"one altered":       {[][]Found{{at(0, 0, 1, 0), at(0, 0, 9, 1), at(0, 1, 4, 2)}, {at(1, 0, 2, 0)}}, Report{Expected: 4, Found: 4, Altered: 1}},
	} {
		got, err := Compare(context.Background(), workOf(expected, c.found, 1<<20, 2))
		if err != nil {
			t.Fatal(err)
		}
		got.Examples = nil
		if fmt.Sprint(*got) != fmt.Sprint(c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, *got, c.want)
		}
	}
}

// A target partition that shows one record in a hundred thousand does not push
// the others out of the window: what it waits for is read first.
func TestRareLane(t *testing.T) {
	const records, rare = 400_000, 100_000
	var expected []Expected
	found := make([][]Found, 2)
	for i := range int64(records) {
		p := int32(0)
		if i%rare == rare-1 {
			p = 1
		}
		expected = append(expected, Expected{Offset: i, Pieces: []Piece{{uint64(i), p}}})
		found[p] = append(found[p], Found{Offset: int64(len(found[p])), Claim: Claim{SourceOffset: i, Hash: uint64(i)}})
	}
	got, err := Compare(context.Background(), workOf([][]Expected{expected}, found, 0, 30_000))
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal() || got.Found != records {
		t.Errorf("%+v", got)
	}
}

// Retention that comes by during the comparison makes nothing foreign or lost.
func TestRetentionComesBy(t *testing.T) {
	var expected []Expected
	var found []Found
	for i := range int64(100) {
		expected = append(expected, Expected{Offset: i, Pieces: []Piece{{uint64(i), 0}}})
		found = append(found, Found{Offset: i, Claim: Claim{SourceOffset: i, Hash: uint64(i)}})
	}
	source := append([]Expected{expected[0], {Offset: 39, Gone: true}}, expected[40:]...)
	got, err := Compare(context.Background(), workOf([][]Expected{source}, [][]Found{found}, 1<<20, 7))
	if err != nil || !got.Equal() || got.Expired != 39 {
		t.Errorf("in the source: %+v, %v", got, err)
	}
	target := append([]Found{found[0], {Offset: 39, Gone: 39}}, found[40:]...)
	got, err = Compare(context.Background(), workOf([][]Expected{expected}, [][]Found{target}, 1<<20, 7))
	if err != nil || !got.Equal() || got.Expired != 39 {
		t.Errorf("in the target: %+v, %v", got, err)
	}
	target = append([]Found{found[0], {Offset: 39, Gone: 10}}, found[40:]...)
	got, err = Compare(context.Background(), workOf([][]Expected{expected}, [][]Found{target}, 1<<20, 7))
	if err != nil || got.Lost != 29 || got.Expired != 10 {
		t.Errorf("ten removed and more missing: %+v, %v", got, err)
	}
}

// A record that a processor fails on keeps the relay from going on.
func TestFailedRecords(t *testing.T) {
	expected := [][]Expected{{{Offset: 0, Pieces: []Piece{{1, 0}}}, {Offset: 1, Failed: true}}}
	found := [][]Found{{{Claim: Claim{Hash: 1}}}}
	got, err := Compare(context.Background(), workOf(expected, found, 1<<20, 2))
	if err != nil || got.Equal() || got.Failed != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// origins makes a target partition of copies of these source offsets.
func origins(offsets ...int64) []Found {
	var out []Found
	for i, o := range offsets {
		out = append(out, Found{Offset: int64(i), Claim: Claim{SourceOffset: o, Hash: uint64(o)}})
	}
	return out
}

// spreadOver expects n records, in the target partitions that place says.
func spreadOver(n int64, place func(int64) int32) []Expected {
	var out []Expected
	for i := range n {
		out = append(out, Expected{Offset: i, Pieces: []Piece{{uint64(i), place(i)}}})
	}
	return out
}

// A stretch that repeats itself is waited for, though its records leave the
// window: the other target partition's records must not push them out.
func TestRepeatedStretchHoldsTheWindow(t *testing.T) {
	first := []int64{2, 5, 11, 15, 17, 18, 25}
	second := []int64{3, 6, 7, 8, 10, 21, 23, 26, 30, 32}
	var expected []Expected
	for o := range int64(33) {
		for p, offsets := range [][]int64{first, second} {
			if slices.Contains(offsets, o) {
				expected = append(expected, Expected{Offset: o, Pieces: []Piece{{uint64(o), int32(p)}}})
			}
		}
	}
	found := [][]Found{
		origins(2, 5, 5, 11, 15, 17, 18, 25),
		origins(3, 6, 7, 8, 6, 7, 8, 10, 21, 23, 26, 30, 32),
	}
	for window := 1; window < 5; window++ {
		got, err := compare(context.Background(), workOf([][]Expected{expected}, found, 0, 1), window)
		if err != nil || got.Reordered != 0 || got.Duplicated != 4 || got.Lost+got.Pending+got.Foreign != 0 {
			t.Errorf("window %d: %+v, %v", window, got, err)
		}
	}
}

// Where no mark tells how far the relay has come, what is missing is pending
// only until something behind it turns up.
func TestPassedRecordsAreLost(t *testing.T) {
	expected := spreadOver(20, func(i int64) int32 { return map[bool]int32{true: 1}[i == 4 || i == 5] })
	found := [][]Found{origins(0, 1, 2, 3, 6, 7, 8), {}}
	got, err := compare(context.Background(), workOf([][]Expected{expected}, found, 0, 1), 1)
	if err != nil || got.Lost != 2 || got.Pending != 11 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Once records say what they were made from, strangers do not have the source
// read on for them, or looked up one by one.
func TestStrangersCostNothing(t *testing.T) {
	found := origins(0)
	for i := range int64(3_000) {
		found = append(found, Found{Offset: i + 1, Claim: Claim{SourceOffset: 5_000 + i, Hash: 1 << 60, Guessed: true}})
	}
	w := workOf([][]Expected{spreadOver(10_000, func(int64) int32 { return 0 })}, [][]Found{found}, 0, 100)
	opened, open := 0, w.Sources[0].Open
	w.Sources[0].Open = func(from int64) Stream[Expected] { opened++; return open(from) }
	got, err := Compare(context.Background(), w)
	if err != nil || got.Foreign != 3_000 || opened != 1 {
		t.Errorf("the source was opened %d times: %+v, %v", opened, got, err)
	}
}
