package position

import "slices"

// Seen is one record of ours in the suffix: the source offset it carries and
// the offset handed to the producer before it from the same source partition.
type Seen struct{ Offset, Prev int64 }

// Prove walks the suffix and returns the source offset to go on at.
//
// Everything before next is done. A seen record whose predecessor is done, and
// which is itself in the target, moves the proof past itself: between Prev and
// Offset nothing was to be written, since Prev names what was handed over
// before it. A hole left by a refused batch breaks the chain, and whatever
// stands behind the hole is written again. The pieces of a split record carry
// their own offset as Prev and therefore prove nothing. It sorts seen.
func Prove(next int64, seen []Seen) int64 {
	slices.SortFunc(seen, func(a, b Seen) int {
		switch {
		case a.Offset != b.Offset:
			return cmp64(a.Offset, b.Offset)
		default:
			return cmp64(a.Prev, b.Prev)
		}
	})
	proved := next - 1
	for _, s := range seen {
		if s.Prev <= proved && s.Offset > proved {
			proved = s.Offset
		}
	}
	return proved + 1
}

func cmp64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
