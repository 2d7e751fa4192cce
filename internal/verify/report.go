// Package verify proves a target equal to its source, or says how they differ.
// It reads both sides once, in step, and keeps a bounded window of the source in
// memory: millions of records take no more than some hundred thousand.
package verify

import "fmt"

// Report is the outcome.
type Report struct {
	// Expected are the records of the source that the target should hold,
	// Found those that the target holds.
	Expected int64 `json:"expected"`
	Found    int64 `json:"found"`
	// Filtered are records of the source that the pipeline drops.
	Filtered int64 `json:"filtered"`

	// Lost: expected and not there, though the relay has passed them.
	Lost int64 `json:"lost"`
	// Pending: not there, and the relay has not come to them yet.
	Pending int64 `json:"pending"`
	// Duplicated are further copies of a record.
	Duplicated int64 `json:"duplicated"`
	// Reordered are records that stand behind a later one of their source
	// partition, going by the last copy of each; where copies are further apart
	// than the window, also such as a later repetition puts right.
	Reordered int64 `json:"reordered"`
	// Altered: key, value, headers or timestamp differ.
	Altered int64 `json:"altered"`
	// Misplaced: in another target partition than the route says.
	Misplaced int64 `json:"misplaced"`
	// Foreign are records of the target that no expected source record
	// explains.
	Foreign int64 `json:"foreign"`

	// Failed: a processor fails on them, and the relay stops there (on_error:
	// stop).
	Failed int64 `json:"failed"`

	// Expired are records that retention has removed from one side: there is
	// nothing to compare them with.
	Expired int64 `json:"expired"`
	// Before are records before the first one relayed, which start_offset
	// leaves out.
	Before int64 `json:"before_start"`

	// Examples are the first few of what differs.
	Examples []string `json:"examples,omitempty"`
}

// Equal tells whether the target holds what it should, each record once, in
// order, and nothing else.
func (r *Report) Equal() bool {
	return r.Lost+r.Pending+r.Duplicated+r.Reordered+r.Altered+r.Misplaced+r.Foreign+r.Failed == 0
}

// Add adds another report's counts.
func (r *Report) Add(o *Report) {
	r.Expected += o.Expected
	r.Found += o.Found
	r.Filtered += o.Filtered
	r.Lost += o.Lost
	r.Pending += o.Pending
	r.Duplicated += o.Duplicated
	r.Reordered += o.Reordered
	r.Altered += o.Altered
	r.Misplaced += o.Misplaced
	r.Foreign += o.Foreign
	r.Failed += o.Failed
	r.Expired += o.Expired
	r.Before += o.Before
	for _, e := range o.Examples {
		r.example("%s", e)
	}
}

const mostExamples = 20

func (r *Report) example(format string, args ...any) {
	if len(r.Examples) < mostExamples {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}
