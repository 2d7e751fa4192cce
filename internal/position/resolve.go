package position

import (
	"fmt"
	"slices"
	"strings"
)

// Resume is the user's choice of how positions are found (field `resume`).
type Resume string

// The values of Resume. ResumeCache is for outputs that are not Kafka: positions
// rest on marks alone, which a Benthos cache keeps.
const (
	ResumeAuto      Resume = "auto"
	ResumeStart     Resume = "start"
	ResumeWatermark Resume = "watermark"
	ResumeCache     Resume = "cache"
)

// TargetLog is the state of one target partition.
type TargetLog struct {
	Partition int32
	// Start is the log start offset, End the high watermark.
	Start, End int64
}

// Evidence is all that is known of one source partition before it is read:
// what the target holds, and what the route and the user say.
type Evidence struct {
	Key    Key
	Resume Resume
	// SamePartition: the route keeps partition numbers, so target offsets may
	// equal source offsets. False for fixed and auto routes.
	SamePartition bool
	// Mark is nil where the progress topic holds none under Key. MarkOffset is
	// its place there: the highest one was written last.
	Mark       *Mark
	MarkOffset int64
	// Seen is the suffix: records of ours behind the mark's covered ends.
	Seen []Seen
	// NewPartition: other partitions of this route have marks, written when
	// the source topic did not have this one yet.
	NewPartition bool
	// OtherRelays are relay_ids that hold marks for this partition, read from
	// this source cluster and written to this very target topic.
	OtherRelays []string
	// Targets are the partitions the route may feed now; Marked the state of
	// those the mark names.
	Targets []TargetLog
	Marked  []TargetLog
	// TargetTopicID is the target topic's ID now, Source what is read from now.
	TargetTopicID string
	Source        SourceID
}

// Start is the way a partition begins.
type Start int

// How a partition begins.
const (
	// StartAt: at Decision.Offset.
	StartAt Start = iota
	// StartAtConfigured: where start_offset says.
	StartAtConfigured
	// StartChecked: at Decision.Offset, if the target's last record before it
	// equals the source's record at the same offset.
	StartChecked
)

// Decision is where a partition goes on.
type Decision struct {
	Start  Start
	Offset int64
	// Why names the ground, for the log.
	Why string
}

// Stop is an error that ends relaying until somebody acts. Its text says what
// is wrong, where, and what to do.
type Stop struct {
	Reason, Cure string
	// Forget is the mark that the cure asks to remove, if any: with WholeTopic
	// those of all partitions of its source topic. Command, filled in by the
	// I/O side, is the shell command that does it.
	Forget     *Key
	WholeTopic bool
	Command    string
	// OfSource says that the reason lies in the source that was asked: another
	// one may do.
	OfSource bool
}

func (s *Stop) Error() string {
	text := s.Reason
	if s.Cure != "" {
		text += "; " + s.Cure
	}
	if s.Command != "" {
		text += ": " + s.Command
	}
	return text
}

func newStop(reason, cure string, forget *Key) *Stop {
	return &Stop{Reason: reason, Cure: cure, Forget: forget}
}

func (s *Stop) wholeTopic() *Stop {
	s.WholeTopic = true
	return s
}

func (s *Stop) ofSource() *Stop {
	s.OfSource = true
	return s
}

// Resolve decides where a source partition goes on, or returns a *Stop.
func Resolve(e Evidence) (Decision, error) {
	if e.Resume == ResumeWatermark {
		return atWatermark(e)
	}
	if e.Mark != nil {
		return fromMark(e)
	}
	return unmarked(e)
}

func fromMark(e Evidence) (Decision, error) {
	m := e.Mark
	if differ(m.TargetTopicID, e.TargetTopicID) {
		return Decision{}, newStop(
			fmt.Sprintf("target topic %q was deleted and recreated since %s was last relayed (topic ID %s, now %s): what was relayed before is gone", e.Key.Target, e.Key.Source, m.TargetTopicID, e.TargetTopicID),
			"to relay it again from start_offset, forget its marks",
			&e.Key,
		).wholeTopic()
	}
	for _, l := range e.Marked {
		if covered := m.Covered[l.Partition]; l.End < covered {
			return Decision{}, newStop(
				fmt.Sprintf("target partition %s/%d ends at offset %d, below %d, up to which the mark of source partition %s says it was written: the target has lost acknowledged records", e.Key.Target, l.Partition, l.End, covered, e.Key.Source),
				"restore the target, or to relay the partition again from start_offset, forget the mark",
				&e.Key,
			)
		}
	}
	if known, ok := m.Knows(e.Source.ClusterID); ok && differ(known.TopicID, e.Source.TopicID) {
		return Decision{}, newStop(
			fmt.Sprintf("source topic %q was deleted and recreated since %s was last relayed (cluster %s, topic ID %s, now %s): its offsets mean other records now", e.Key.Source.Topic, e.Key.Source, e.Source.ClusterID, known.TopicID, e.Source.TopicID),
			"to relay the new topic from start_offset behind what the target holds, set resume: start and forget its marks",
			&e.Key,
		).wholeTopic().ofSource()
	}
	if e.Resume == ResumeCache {
		return Decision{Offset: m.Next, Why: "mark in the cache"}, nil
	}
	return Decision{Offset: Prove(m.Next, e.Seen), Why: "mark and proven suffix"}, nil
}

func unmarked(e Evidence) (Decision, error) {
	switch {
	case e.NewPartition:
		return Decision{Why: "a new partition of a route relayed before"}, nil
	case e.Resume == ResumeCache:
		return Decision{Start: StartAtConfigured, Why: "no mark in the cache"}, nil
	case e.Resume == ResumeStart:
		return Decision{Start: StartAtConfigured, Why: "no mark, resume: start"}, nil
	case len(e.OtherRelays) > 0:
		return Decision{}, newStop(
			fmt.Sprintf("source partition %s was relayed to this target topic %q by relay_id %s, and this relay has another (%s)", e.Key.Source, e.Key.Target, quoteAll(e.OtherRelays), e.Key.RelayID),
			"set relay_id to that one to go on where it stopped, or resume: start to relay everything again",
			nil,
		)
	}
	empty, emptied := true, false
	for _, l := range e.Targets {
		empty = empty && l.End == 0
		emptied = emptied || (l.End > 0 && l.Start == l.End)
	}
	ways := "set resume: start to relay from start_offset behind what is there"
	switch {
	case empty:
		return Decision{Start: StartAtConfigured, Why: "empty target"}, nil
	case emptied && e.SamePartition:
		return Decision{}, newStop(
			fmt.Sprintf("target partition of %s in %q has held records, retention removed them all, and no mark tells where to go on", e.Key.Source, e.Key.Target),
			ways+", or resume: watermark to go on at the target's end offset",
			nil,
		)
	case !e.SamePartition:
		return Decision{}, newStop(
			fmt.Sprintf("target topic %q holds records and no mark tells how far source partition %s was relayed; a route that changes partitions cannot be checked by offsets", e.Key.Target, e.Key.Source),
			ways,
			nil,
		)
	}
	return Decision{Start: StartChecked, Offset: e.Targets[0].End, Why: "the target's last record equals the source's"}, nil
}

// atWatermark is what kaf-relay does: the target's end offset is the next
// source offset. Nothing else is looked at.
func atWatermark(e Evidence) (Decision, error) {
	if !e.SamePartition {
		return Decision{}, newStop(
			fmt.Sprintf("resume: watermark needs a route that keeps partition numbers, and the one of %s to %q does not", e.Key.Source, e.Key.Target),
			"use resume: auto",
			nil,
		)
	}
	if e.Targets[0].End == 0 {
		return Decision{Start: StartAtConfigured, Why: "empty target"}, nil
	}
	return Decision{Offset: e.Targets[0].End, Why: "the target's end offset (resume: watermark)"}, nil
}

func differ(a, b string) bool { return a != "" && b != "" && a != b }

func quoteAll(ids []string) string {
	ids = slices.Clone(ids)
	for i, id := range ids {
		ids[i] = fmt.Sprintf("%q", id)
	}
	return strings.Join(ids, ", ")
}

// ForgetCommand is the shell command that tombstones the marks under keys with
// Kafka's own console producer. It needs no quotes or backslashes, which a log
// line would escape.
func ForgetCommand(brokers []string, topic string, keys ...Key) string {
	records := make([]string, len(keys))
	for i, k := range keys {
		records[i] = k.String() + "=NULL"
	}
	return fmt.Sprintf("echo %s | xargs -n1 | kafka-console-producer.sh --bootstrap-server %s --topic %s --property parse.key=true --property key.separator== --property null.marker=NULL",
		strings.Join(records, " "), strings.Join(brokers, ","), topic)
}
