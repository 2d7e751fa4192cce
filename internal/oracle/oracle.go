// Package oracle compares a target with its source, record by record, and says
// what is lost, doubled, reordered, altered or foreign. It knows nothing of the
// relay but the origin header.
package oracle

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

// Options say what is compared.
type Options struct {
	// Topics maps each source topic to its target topic.
	Topics map[string]string
	// Header is the origin header; "_origin" if empty. It is left out of the
	// comparison.
	Header string
	// Partition is the target partition a source record belongs to; nil: its
	// own. -1 leaves it open.
	Partition func(*kgo.Record) int32
	// Expect turns a source record into what the target should hold; nil
	// filters it. Without it every record is expected as it is.
	Expect func(*kgo.Record) *kgo.Record
	// Ignore names headers that a pipeline has added to the target's records.
	Ignore []string
	// ByOffset ties target records to source records by equal offsets, for
	// targets without origin headers.
	ByOffset bool
	// ByKey ties them by equal keys, which must then be unique within the topic,
	// for targets that keep neither.
	ByKey bool
}

// Report is the outcome.
type Report struct {
	Source     int // records expected
	Target     int // records found
	Lost       int
	Duplicated int // further copies of a record
	Reordered  int // records whose last copy stands behind that of a later one
	Altered    int
	Misplaced  int // in another partition than expected
	Foreign    int // records of the target that no expected source record explains
	// Examples of each, a few.
	Examples []string
}

// Exact tells whether the target is the source, once each.
func (r *Report) Exact() bool { return r.Faithful() && r.Duplicated == 0 }

// Faithful allows copies and nothing else.
func (r *Report) Faithful() bool {
	return r.Lost == 0 && r.Reordered == 0 && r.Altered == 0 && r.Misplaced == 0 && r.Foreign == 0
}

func (r *Report) String() string {
	s := fmt.Sprintf("source %d, target %d: lost %d, duplicated %d, reordered %d, altered %d, misplaced %d, foreign %d",
		r.Source, r.Target, r.Lost, r.Duplicated, r.Reordered, r.Altered, r.Misplaced, r.Foreign)
	if len(r.Examples) > 0 {
		s += "\n  " + strings.Join(r.Examples, "\n  ")
	}
	return s
}

const maxExamples = 12

func (r *Report) example(format string, args ...any) {
	if len(r.Examples) < maxExamples {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}

// expected is what one source partition should have become: offsets and
// hashes, not records, so that a comparison of millions stays small.
type expected struct {
	tp      position.TP
	offsets []int64
	hashes  []uint64
	where   []int32  // target partition, -1: any
	keys    []string // with ByKey
	copies  []uint16
	// last is the place of the last copy found: target partition and offset.
	lastPart []int32
	last     []int64
}

// Compare reads both sides to their present ends.
func Compare(ctx context.Context, source, target *kafka.Cluster, o Options) (*Report, error) {
	if o.Header == "" {
		o.Header = "_origin"
	}
	rep := &Report{}
	for _, topic := range sortedKeys(o.Topics) {
		parts, err := readSource(ctx, source, topic, o, rep)
		if err != nil {
			return nil, fmt.Errorf("reading the source: %w", err)
		}
		if err := readTarget(ctx, target, o.Topics[topic], topic, parts, o, rep); err != nil {
			return nil, fmt.Errorf("reading the target: %w", err)
		}
		for _, e := range parts {
			e.judge(rep)
		}
	}
	return rep, nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// each reads all committed records of a topic, partition by partition.
func each(ctx context.Context, c *kafka.Cluster, topic string, fn func(*kgo.Record)) (int32, error) {
	d, err := c.Describe(ctx, topic)
	if err != nil {
		return 0, err
	}
	if t := d.Topics[topic]; t.Err != nil {
		return 0, t.Err
	}
	starts, err := c.Offsets(ctx, kafka.LogStart, topic)
	if err != nil {
		return 0, err
	}
	ends, err := c.Offsets(ctx, kafka.LastStable, topic)
	if err != nil {
		return 0, err
	}
	reader, n := c.Reader(d, true), d.Topics[topic].Partitions
	for p := range n {
		tp := position.TP{Topic: topic, Partition: p}
		if err := reader.Each(ctx, tp, starts[tp], ends[tp], func(r *kgo.Record) bool { fn(r); return true }); err != nil {
			return n, err
		}
	}
	return n, nil
}

func readSource(ctx context.Context, c *kafka.Cluster, topic string, o Options, rep *Report) ([]*expected, error) {
	var parts []*expected
	n, err := each(ctx, c, topic, func(r *kgo.Record) {
		for int(r.Partition) >= len(parts) {
			parts = append(parts, &expected{tp: position.TP{Topic: topic, Partition: int32(len(parts))}})
		}
		want := r
		if o.Expect != nil {
			if want = o.Expect(r); want == nil {
				return
			}
		}
		where := r.Partition
		if o.Partition != nil {
			where = o.Partition(want)
		}
		rep.Source++
		parts[r.Partition].add(r.Offset, hash(want, o.Header, false, nil), where)
		if o.ByKey {
			parts[r.Partition].keys = append(parts[r.Partition].keys, string(r.Key))
		}
	})
	for len(parts) < int(n) {
		parts = append(parts, &expected{tp: position.TP{Topic: topic, Partition: int32(len(parts))}})
	}
	return parts, err
}

func (e *expected) add(offset int64, h uint64, where int32) {
	e.offsets = append(e.offsets, offset)
	e.hashes = append(e.hashes, h)
	e.where = append(e.where, where)
	e.copies = append(e.copies, 0)
	e.last = append(e.last, -1)
	e.lastPart = append(e.lastPart, -1)
}

func readTarget(ctx context.Context, c *kafka.Cluster, topic, from string, parts []*expected, o Options, rep *Report) error {
	origin := o.tie(from, parts)
	_, err := each(ctx, c, topic, func(r *kgo.Record) {
		rep.Target++
		tp, offset, ok := origin(r)
		if !ok {
			rep.Foreign++
			rep.example("foreign: target %s/%d offset %d", topic, r.Partition, r.Offset)
			return
		}
		if int(tp.Partition) >= len(parts) {
			rep.Foreign++
			return
		}
		e := parts[tp.Partition]
		i, ok := slices.BinarySearch(e.offsets, offset)
		if !ok {
			rep.Foreign++
			rep.example("foreign: target %s/%d offset %d claims source %s offset %d", topic, r.Partition, r.Offset, tp, offset)
			return
		}
		e.found(i, r, hash(r, o.Header, true, o.Ignore), rep)
	})
	return err
}

// tie tells of a target record which source record it claims to be.
func (o Options) tie(from string, parts []*expected) func(*kgo.Record) (position.TP, int64, bool) {
	switch {
	case o.ByOffset:
		return func(r *kgo.Record) (position.TP, int64, bool) {
			return position.TP{Topic: from, Partition: r.Partition}, r.Offset, true
		}
	case o.ByKey:
		type place struct {
			tp     position.TP
			offset int64
		}
		places := map[string]place{}
		for _, e := range parts {
			for i, key := range e.keys {
				places[key] = place{e.tp, e.offsets[i]}
			}
		}
		return func(r *kgo.Record) (position.TP, int64, bool) {
			p, ok := places[string(r.Key)]
			return p.tp, p.offset, ok
		}
	}
	return func(r *kgo.Record) (position.TP, int64, bool) {
		origin, ok := record.LastOrigin(r, o.Header)
		return position.TP{Topic: origin.Topic, Partition: origin.Partition}, origin.Offset, ok && origin.Topic == from
	}
}

func (e *expected) found(i int, r *kgo.Record, h uint64, rep *Report) {
	if e.copies[i]++; e.copies[i] > 1 {
		rep.Duplicated++
	}
	if e.hashes[i] != h {
		rep.Altered++
		rep.example("altered: source %s offset %d at target %s/%d offset %d", e.tp, e.offsets[i], r.Topic, r.Partition, r.Offset)
	}
	if e.where[i] >= 0 && e.where[i] != r.Partition {
		rep.Misplaced++
		rep.example("misplaced: source %s offset %d belongs to partition %d, stands in %s/%d", e.tp, e.offsets[i], e.where[i], r.Topic, r.Partition)
	}
	e.lastPart[i], e.last[i] = r.Partition, r.Offset
}

// judge counts what is missing, and what stands out of order: going by the last
// copy of each record, the copies of one source partition within one target
// partition must rise.
func (e *expected) judge(rep *Report) {
	highest := map[int32]int64{}
	for i := range e.offsets {
		if e.copies[i] == 0 {
			rep.Lost++
			rep.example("lost: source %s offset %d", e.tp, e.offsets[i])
			continue
		}
		if h, ok := highest[e.lastPart[i]]; ok && e.last[i] < h {
			rep.Reordered++
			rep.example("reordered: source %s offset %d stands at target offset %d, one before it at %d", e.tp, e.offsets[i], e.last[i], h)
			continue
		}
		highest[e.lastPart[i]] = e.last[i]
	}
}

// hash covers key, value, headers and timestamp, nil and empty apart; of a
// target record the last origin header is left out.
func hash(r *kgo.Record, header string, target bool, ignore []string) uint64 {
	d := xxhash.New()
	var n [8]byte
	num := func(v int64) {
		binary.LittleEndian.PutUint64(n[:], uint64(v))
		_, _ = d.Write(n[:])
	}
	field := func(b []byte) {
		if b == nil {
			num(-1)
			return
		}
		num(int64(len(b)))
		_, _ = d.Write(b)
	}
	own := -1
	if target {
		for i := len(r.Headers) - 1; i >= 0 && own < 0; i-- {
			if r.Headers[i].Key == header {
				own = i
			}
		}
	}
	num(r.Timestamp.UnixMilli())
	field(r.Key)
	field(r.Value)
	for i, h := range r.Headers {
		if i != own && !slices.Contains(ignore, h.Key) {
			field([]byte(h.Key))
			field(h.Value)
		}
	}
	return d.Sum64()
}
