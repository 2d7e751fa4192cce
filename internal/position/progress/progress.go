// Package progress keeps marks in a compacted topic on the target.
package progress

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

// SegmentBytes is the topic's segment.bytes: small, so that compaction, which
// leaves the active segment alone, keeps what a boot reads small.
const SegmentBytes = 16 << 20

// Topic is the progress topic, read up to some offset.
type Topic struct {
	Name string
	// ID is its topic ID; another one later means it was recreated.
	ID      string
	cluster *kafka.Cluster
	end     int64
}

// Entry is one mark as it stands in the topic.
type Entry struct {
	Key    position.Key
	Mark   position.Mark
	Offset int64
}

// Open creates the topic if it is missing, and if mayCreate says so, and checks
// that it can keep marks.
func Open(ctx context.Context, c *kafka.Cluster, name string, replicationFactor int16, mayCreate bool) (*Topic, error) {
	t, err := describe(ctx, c, name)
	if err == nil && t.Missing() && mayCreate {
		if err = create(ctx, c, name, replicationFactor); err == nil {
			t, err = awaitLeader(ctx, c, name)
		}
	}
	if err != nil {
		return nil, err
	}
	if t.Err != nil {
		return nil, fmt.Errorf("progress topic %q of %s: %w", name, c.Conn.Name, t.Err)
	}
	if err := check(ctx, c, name, t); err != nil {
		return nil, err
	}
	return &Topic{Name: name, ID: t.ID, cluster: c}, nil
}

func describe(ctx context.Context, c *kafka.Cluster, name string) (kafka.Topic, error) {
	d, err := c.Describe(ctx, name)
	if err != nil {
		return kafka.Topic{}, err
	}
	return d.Topics[name], nil
}

// awaitLeader waits until a topic just created can be used.
func awaitLeader(ctx context.Context, c *kafka.Cluster, name string) (kafka.Topic, error) {
	for {
		t, err := describe(ctx, c, name)
		if err != nil || (t.Err == nil && len(t.Leaderless) == 0) {
			return t, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return t, fmt.Errorf("progress topic %q of %s was created and has no leader yet", name, c.Conn.Name)
		}
	}
}

func create(ctx context.Context, c *kafka.Cluster, name string, replicationFactor int16) error {
	_, err := c.Admin.CreateTopic(ctx, 1, replicationFactor, map[string]*string{
		"cleanup.policy": kadm.StringPtr("compact"),
		"segment.bytes":  kadm.StringPtr(strconv.Itoa(SegmentBytes)),
	}, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("creating progress topic %q on %s: %w; create it by hand with 1 partition, cleanup.policy=compact and segment.bytes=%d", name, c.Conn.Name, err, SegmentBytes)
	}
	return nil
}

func check(ctx context.Context, c *kafka.Cluster, name string, t kafka.Topic) error {
	cure := fmt.Sprintf("give progress_topic another name, or mend the topic: 1 partition, cleanup.policy=compact, segment.bytes=%d", SegmentBytes)
	if t.Partitions != 1 {
		return &position.Stop{Reason: fmt.Sprintf("progress topic %q of %s has %d partitions and needs exactly 1", name, c.Conn.Name, t.Partitions), Cure: cure}
	}
	confs, err := c.Admin.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return fmt.Errorf("reading the configuration of progress topic %q: %w", name, err)
	}
	for _, rc := range confs {
		if rc.Err != nil {
			continue // describing may be forbidden; writing and reading are not
		}
		for _, kv := range rc.Configs {
			v := kv.MaybeValue()
			if kv.Key == "cleanup.policy" && v != "compact" {
				return &position.Stop{Reason: fmt.Sprintf("progress topic %q of %s has cleanup.policy=%s: retention would delete marks", name, c.Conn.Name, v), Cure: cure}
			}
			if n, err := strconv.Atoi(v); kv.Key == "segment.bytes" && err == nil && n > SegmentBytes {
				return &position.Stop{Reason: fmt.Sprintf("progress topic %q of %s has segment.bytes=%d: compaction would leave too much to read at start", name, c.Conn.Name, n), Cure: cure}
			}
		}
	}
	return nil
}

// Load reads the whole topic: the latest mark under each key.
func (t *Topic) Load(ctx context.Context) (map[position.Key]Entry, error) {
	starts, err := t.cluster.Offsets(ctx, kafka.LogStart, t.Name)
	if err != nil {
		return nil, err
	}
	t.end = starts[t.tp()]
	marks := map[position.Key]Entry{}
	err = t.read(ctx, func(k position.Key, e *Entry) {
		if e == nil {
			delete(marks, k)
			return
		}
		if was, ok := marks[k]; ok { // the latest counts, but not for a generation
			e.Mark.Generation = max(e.Mark.Generation, was.Mark.Generation)
		}
		marks[k] = *e
	})
	return marks, err
}

// Tail reads what was written since the last Load or Tail.
func (t *Topic) Tail(ctx context.Context) ([]Entry, error) {
	var out []Entry
	err := t.read(ctx, func(_ position.Key, e *Entry) {
		if e != nil {
			out = append(out, *e)
		}
	})
	return out, err
}

func (t *Topic) tp() position.TP { return position.TP{Topic: t.Name} }

// read goes on from t.end to the topic's end; fn gets nil for a tombstone.
func (t *Topic) read(ctx context.Context, fn func(position.Key, *Entry)) error {
	d, err := t.cluster.Describe(ctx, t.Name)
	if err != nil {
		return err
	}
	got := d.Topics[t.Name]
	if got.Err != nil {
		return fmt.Errorf("progress topic %q of %s: %w", t.Name, t.cluster.Conn.Name, got.Err)
	}
	if got.ID != t.ID {
		return fmt.Errorf("progress topic %q of %s is another one than at start (topic ID %s, now %s)", t.Name, t.cluster.Conn.Name, t.ID, got.ID)
	}
	ends, err := t.cluster.Offsets(ctx, kafka.LastStable, t.Name) // further than that nothing is decided
	if err != nil {
		return err
	}
	end := ends[t.tp()]
	var bad error
	err = t.cluster.Reader(d, true).Each(ctx, t.tp(), t.end, end, func(r *kgo.Record) bool {
		k, kerr := position.ParseKey(string(r.Key))
		if kerr != nil {
			return true // not a mark; nothing of ours
		}
		if len(r.Value) == 0 {
			fn(k, nil)
			return true
		}
		m, merr := position.DecodeMark(r.Value)
		if merr != nil {
			bad = &position.Stop{Reason: fmt.Sprintf("progress topic %q, offset %d, key %s: %v", t.Name, r.Offset, k, merr), Cure: "remove that mark if it is not wanted", Forget: &k}
			return false
		}
		fn(k, &Entry{k, m, r.Offset})
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	t.end = max(t.end, end)
	return nil
}
