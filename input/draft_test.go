package input

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/relay"
)

func newDraftReader(records, bytes int, stopAt []int64, pending ...*kgo.Record) *reader {
	return &reader{
		in:  &Input{conf: config{batchRecords: records, batchMaxBytes: bytes}},
		gen: &relay.Generation{RelayID: "me", OriginHeader: "_origin"}, at: make([]atomic.Int64, 2), epochs: []int32{-1, -1},
		index: map[string][]int{"t": {0, 1}}, stopAt: stopAt, pending: pending,
	}
}

func run(partition int32, offsets ...int64) (out []*kgo.Record) {
	for _, o := range offsets {
		out = append(out, &kgo.Record{Topic: "t", Partition: partition, Offset: o, Value: make([]byte, 100)})
	}
	return out
}

func shape(d *draft) string {
	s := ""
	for _, sp := range d.spans {
		s += fmt.Sprintf("part %d to %d; ", sp.Part, sp.Next)
	}
	return s + fmt.Sprintf("%d messages, %d used, %d loops", len(d.sources), d.used, d.loops)
}

func inEpoch(epoch int32, records []*kgo.Record) []*kgo.Record {
	for _, r := range records {
		r.LeaderEpoch = epoch
	}
	return records
}

// A draft ends before a record of a later leader than the one its partition was
// examined under; one that begins with it is left to a look at the source.
// Records of earlier leaders are part of the same history.
func TestDraftEndsBeforeANewLeader(t *testing.T) {
	r := newDraftReader(10, 10_000, nil, append(append(inEpoch(2, run(0, 1, 2)), inEpoch(5, run(1, 7, 8))...), inEpoch(4, run(0, 3))...)...)
	r.epochs = []int32{3, 5}
	if diff := cmp.Diff("part 0 to 3; part 1 to 9; 4 messages, 4 used, 0 loops", shape(r.draft())); diff != "" {
		t.Fatal(diff)
	}
	r.pending = r.pending[4:]
	if d := r.draft(); d.used != 0 {
		t.Fatal("a record of a new leader is taken unseen: " + shape(d))
	}
	r.epochs[0] = 4
	if d := r.draft(); d.used != 1 {
		t.Fatal("once the leader is known, its records are taken: " + shape(d))
	}
}

// A draft ends at whichever limit comes first, and covers what it leaves out.
func TestDraft(t *testing.T) {
	looped := run(0, 2)[0]
	looped.Headers = []kgo.RecordHeader{{Key: "_origin", Value: []byte("me/t/0/1/0")}}
	for name, c := range map[string]struct {
		r    *reader
		want string
	}{
		"all":                {newDraftReader(10, 10_000, nil, append(run(0, 1, 2), run(1, 5)...)...), "part 0 to 3; part 1 to 6; 3 messages, 3 used, 0 loops"},
		"record limit":       {newDraftReader(2, 10_000, nil, run(0, 1, 2, 3)...), "part 0 to 3; 2 messages, 2 used, 0 loops"},
		"byte limit":         {newDraftReader(10, 250, nil, run(0, 1, 2, 3)...), "part 0 to 3; 2 messages, 2 used, 0 loops"},
		"one too large":      {newDraftReader(10, 50, nil, run(0, 1, 2)...), "part 0 to 2; 1 messages, 1 used, 0 loops"},
		"gaps":               {newDraftReader(10, 10_000, nil, run(0, 1, 7)...), "part 0 to 8; 2 messages, 2 used, 0 loops"},
		"a loop":             {newDraftReader(10, 10_000, nil, run(0, 1)[0], looped), "part 0 to 3; 1 messages, 2 used, 1 loops"},
		"only a loop":        {newDraftReader(10, 10_000, nil, looped), "part 0 to 3; 0 messages, 1 used, 1 loops"},
		"beyond the end":     {newDraftReader(10, 10_000, []int64{3, 9}, append(run(0, 1, 2, 3, 4), run(1, 5)...)...), "part 0 to 3; part 1 to 6; 3 messages, 5 used, 0 loops"},
		"all beyond the end": {newDraftReader(10, 10_000, []int64{1, 9}, run(0, 1, 2)...), "0 messages, 2 used, 0 loops"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, shape(c.r.draft())); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	r := retry{first: time.Second, longest: 10 * time.Second}
	var got []time.Duration
	for i := 1; i < 7; i++ {
		got = append(got, backoff(r, i)/time.Second)
	}
	if diff := cmp.Diff([]time.Duration{1, 2, 4, 8, 10, 10}, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestStartOffset(t *testing.T) {
	for _, good := range []string{"earliest", "latest", "2026-01-31T00:00:00Z", "2026-01-31T00:00:00+02:00"} {
		if _, err := parseStartOffset(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "first", "2026-01-31", "12"} {
		if _, err := parseStartOffset(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}
