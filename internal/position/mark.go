package position

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// MarkVersion is the version of the mark's value that this code writes.
const MarkVersion = 1

// Key names a mark: one relay, one source partition, one route's target topic.
// As text it is relay_id/topic/partition/target_topic; none of these may hold
// a slash, so the text reads back without doubt.
type Key struct {
	RelayID string
	Source  TP
	Target  string
}

// String is the key of the mark's record in the progress topic.
func (k Key) String() string {
	return k.RelayID + "/" + k.Source.Topic + "/" + strconv.Itoa(int(k.Source.Partition)) + "/" + k.Target
}

// ParseKey reads the text form back.
func ParseKey(s string) (Key, error) {
	f := strings.Split(s, "/")
	if len(f) != 4 || f[0] == "" || f[1] == "" || f[3] == "" {
		return Key{}, fmt.Errorf("mark key %q is not relay_id/topic/partition/target_topic", s)
	}
	p, err := strconv.ParseInt(f[2], 10, 32)
	if err != nil || p < 0 {
		return Key{}, fmt.Errorf("mark key %q has no partition number in its third place", s)
	}
	return Key{RelayID: f[0], Source: TP{f[1], int32(p)}, Target: f[3]}, nil
}

// Mark is what the target remembers of one source partition.
type Mark struct {
	// Version of this format; MarkVersion in what we write.
	Version int `json:"v"`
	// Next is a source offset with everything before it done: written and
	// acknowledged, filtered, or given up by on_error.
	Next int64 `json:"next"`
	// Covered holds, per target partition this source partition may feed, the
	// offset just past the last target record that Next accounts for. What
	// lies from there on is the suffix.
	Covered map[int32]int64 `json:"covered"`
	// TargetTopicID is the topic ID (KIP-516) of the route's target topic;
	// empty where the broker gives none.
	TargetTopicID string `json:"target_topic_id,omitempty"`
	// Sources are the clusters this partition was read from, the latest last.
	Sources []SourceID `json:"sources,omitempty"`
	// Generation counts the instances that have used this relay_id; the
	// highest is the one in charge. Instance tells two of one generation apart.
	Generation int64  `json:"generation"`
	Instance   string `json:"instance"`
	// Transactional: the mark was committed together with all the records that
	// it accounts for, and nothing behind it is in the target.
	Transactional bool `json:"transactional,omitempty"`
	// Partitions is how many the source topic had: one beyond is new.
	Partitions int32 `json:"partitions"`
	// Pairs are up to MaxPairs samples of relayed source records, by rising
	// offset, with which another source is compared before it is followed.
	Pairs []Pair `json:"pairs,omitempty"`
}

// SourceID identifies the topic in one source cluster.
type SourceID struct {
	ClusterID string `json:"cluster_id"`
	TopicID   string `json:"topic_id,omitempty"`
}

// MaxPairs bounds the samples a mark holds.
const MaxPairs = 16

// Pair is the fingerprint (key, value and headers, never timestamps) of the
// source record at an offset.
type Pair struct {
	Offset      int64       `json:"offset"`
	Fingerprint Fingerprint `json:"fingerprint"`
}

// Fingerprint is a 64-bit hash, in hexadecimal as text: JSON numbers lose bits.
type Fingerprint uint64

// MarshalText implements encoding.TextMarshaler.
func (f Fingerprint) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%016x", uint64(f)), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fingerprint) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*f = Fingerprint(n)
	return err
}

func (f Fingerprint) String() string { return fmt.Sprintf("%016x", uint64(f)) }

// Encode is the mark's value in the progress topic.
func (m Mark) Encode() []byte {
	m.Version = MarkVersion
	b, err := json.Marshal(m)
	if err != nil {
		panic("position: a mark always encodes: " + err.Error())
	}
	return b
}

// DecodeMark reads a mark's value. A newer version is refused rather than
// guessed at: what it means by done may differ.
func DecodeMark(b []byte) (Mark, error) {
	var m Mark
	if err := json.Unmarshal(b, &m); err != nil {
		return Mark{}, fmt.Errorf("mark is not readable: %w", err)
	}
	if m.Version != MarkVersion {
		return Mark{}, fmt.Errorf("mark has version %d and this release reads version %d: run the release that wrote it, or a newer one", m.Version, MarkVersion)
	}
	if m.Next < 0 {
		return Mark{}, fmt.Errorf("mark has a negative next offset %d", m.Next)
	}
	return m, nil
}

// Knows tells whether the partition was read from this cluster before, and
// under which topic ID.
func (m Mark) Knows(clusterID string) (SourceID, bool) {
	for _, s := range m.Sources {
		if s.ClusterID == clusterID {
			return s, true
		}
	}
	return SourceID{}, false
}

// Remember returns the sources with id as the latest, each cluster once.
func Remember(sources []SourceID, id SourceID) []SourceID {
	out := make([]SourceID, 0, len(sources)+1)
	for _, s := range sources {
		if s.ClusterID != id.ClusterID {
			out = append(out, s)
		}
	}
	return append(out, id)
}
