package relay

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/preflight"
)

// Target is what an input asks of the output it is paired with. All calls come
// from the input's Connect, one at a time; each is safe to repeat after an
// error. An error that is a *position.Stop is final.
type Target interface {
	// Stand ends what is left of the last generation's producer and tells,
	// for every source partition asked for, what the target holds of it.
	Stand(ctx context.Context, q Query) (*Standing, error)
	// Preview is what Stand would answer, found out without writing, creating
	// or claiming anything: for a look from outside. The error says why the
	// relay would not begin.
	Preview(ctx context.Context, q Query) (*Preview, error)
	// Marks are the marks on the target for what is selected, for when no source
	// can be asked how many partitions there are. It only reads.
	Marks(ctx context.Context, s Selection) ([]MarkedPart, error)
	// Own are topics that the output keeps for itself, such as the progress topic.
	Own() []string
	// Left tells whether the output has closed: another one takes its place.
	Left() bool
	// LastRecord returns the last record that a committed reader sees in a
	// target partition, nil if there is none.
	LastRecord(ctx context.Context, tp position.TP) (*kgo.Record, error)
	// Explain completes an error that asks to remove marks, of these keys, by
	// the command that does it.
	Explain(err error, keys []position.Key) error
	// Begin writes the first marks of a generation and returns once they are
	// acknowledged: a target partition gets records only when an acknowledged
	// mark names it. From then on the output takes that generation's tickets.
	Begin(ctx context.Context, g *Generation) error
}

// IsSource is the stop where a source turns out to be the target itself.
func IsSource(clusterID string) *position.Stop {
	return &position.Stop{
		Reason: fmt.Sprintf("source and target are the same cluster (cluster ID %s)", clusterID),
		Cure:   "check seed_brokers of both: a relay copies from one cluster to another",
	}
}

// Query is the question: where does the target stand for these topics?
type Query struct {
	// ClusterID of the source, to refuse a source that is the target.
	ClusterID string
	Topics    []SourceTopic
	Resume    position.Resume
	// Settings asks the source for the settings of Topics that copies of them are
	// to have, by name; one that may not be read is left out. Nil: unknown.
	Settings func(context.Context) (map[string]kafka.Settings, error)
	// MarksOnly leaves the suffix behind the marks unread: the answer may then
	// be a second old. Only for Preview.
	MarksOnly bool
}

// Preview is the answer of Target.Preview. With an error, or with a finding
// that fails, Standing is nil.
type Preview struct {
	Standing *Standing
	Found    preflight.Report
	// Topics are the configurations of the target's topics, by name.
	Topics map[string]kafka.TopicConfig
	// MaxMessageBytes is the largest record batch that the output writes.
	MaxMessageBytes int64
}

// MarkedPart is a source partition that has a mark.
type MarkedPart struct {
	Source position.TP
	Route  Route
	Next   int64
}

// SortMarked puts them in the order of their source partitions.
func SortMarked(parts []MarkedPart) {
	slices.SortFunc(parts, func(a, b MarkedPart) int {
		return cmp.Or(cmp.Compare(a.Source.Topic, b.Source.Topic), cmp.Compare(a.Source.Partition, b.Source.Partition))
	})
}

// SourceTopic is a source topic as its cluster describes it.
type SourceTopic struct {
	Route      Route
	TopicID    string
	Partitions int32
}

// Standing is the answer.
type Standing struct {
	// ClusterID of the target.
	ClusterID string
	RelayID   string
	// OriginHeader is the header's name, empty if none is written.
	OriginHeader string
	// MaxInFlight times the input's batch_max_bytes is the window.
	MaxInFlight int
	// Slots are the target partitions, and Ends their high watermarks, that
	// the parts refer to by index.
	Slots []position.TP
	Ends  []int64
	Parts []PartStanding
	// Marked is how many partitions a source topic had when it was relayed, by
	// its marks: a source that has fewer lacks records.
	Marked map[string]int32
}

// PartStanding is what the target holds of one source partition.
type PartStanding struct {
	Part     Part
	Evidence position.Evidence
}

// Part is one source partition and the target partitions it feeds.
type Part struct {
	Source position.TP
	Route  Route
	// FirstSlot and Slots give the range of target partitions: one for a route
	// that keeps or fixes the partition, all of the topic's for one by key.
	FirstSlot, Slots int
	// SourcePartitions is how many its topic has.
	SourcePartitions int32
	// Sources are the clusters it was read from, the present one last. Once a
	// generation has the part, only it may look (SourcesOf) and change them.
	Sources       []position.SourceID
	TargetTopicID string
}

// Key is the key of the part's mark.
func (p Part) Key(relayID string) position.Key {
	return position.Key{RelayID: relayID, Source: p.Source, Target: p.Route.Target}
}
