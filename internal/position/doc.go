// Package position decides where a relay goes on: the next source offset of
// every source partition, as the target cluster knows it.
//
// A target's tail proves nothing by itself: one refused produce batch leaves a
// hole with later records behind it. So positions rest on two things. A mark,
// a record of the progress topic, states an offset with everything before it
// done, and how far into each target partition that statement reaches. The
// proven suffix is what lies in the target after the mark: each record there
// names its source offset and the offset handed to the producer before it, and
// a chain of such links extends the mark.
//
// Everything in this package except progress.go is plain values and functions.
package position

import "fmt"

// TP names one partition of a topic.
type TP struct {
	Topic     string
	Partition int32
}

// String is topic/partition, as it stands in keys, headers and messages.
func (tp TP) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }
