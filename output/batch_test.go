package output

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

func sources(span int, offsets ...int64) []*record.Source {
	var out []*record.Source
	for _, o := range offsets {
		out = append(out, &record.Source{Record: &kgo.Record{Topic: "t", Partition: int32(span), Offset: o}, Span: span})
	}
	return out
}

func preparedOf(spans int, src ...*record.Source) *prepared {
	p := &prepared{sources: src, first: make([]int, spans), last: make([]int64, spans)}
	for i := range p.first {
		p.first[i], p.last[i] = -1, -1
	}
	return p
}

// Each record's predecessor is the one before it of the same source partition;
// pieces of one record name themselves; the first of a batch asks its turn.
func TestLink(t *testing.T) {
	for name, c := range map[string]struct {
		src  []*record.Source
		want []int64
	}{
		"in a row":         {sources(0, 5, 6, 7), []int64{fromTurn, 5, 6}},
		"filtered between": {sources(0, 5, 9, 20), []int64{fromTurn, 5, 9}},
		"two partitions":   {append(sources(0, 5, 6), sources(1, 1, 2)...), []int64{fromTurn, 5, fromTurn, 1}},
		"pieces":           {sources(0, 5, 6, 6, 6, 7), []int64{fromTurn, 6, 6, 6, 6}},
		"pieces first":     {sources(0, 5, 5, 6), []int64{5, 5, 5}},
		"nothing":          {nil, []int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := preparedOf(2, c.src...).link()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
	if _, err := preparedOf(1, sources(0, 5, 7, 6)...).link(); err == nil || !strings.Contains(err.Error(), "out of order, offset 6 behind 7") {
		t.Fatalf("a batch that runs backwards: %v", err)
	}
}

func TestCheckContiguous(t *testing.T) {
	if err := preparedOf(1, sources(0, 5, 6, 7)...).checkContiguous(0, 4); err != nil {
		t.Fatal(err)
	}
	for _, offsets := range [][]int64{{6, 7}, {5, 7}, {5, 5}} {
		if err := preparedOf(1, sources(0, offsets...)...).checkContiguous(0, 4); err == nil {
			t.Errorf("offsets %v behind 4 pass", offsets)
		}
	}
}

func TestTouchIndex(t *testing.T) {
	p := &prepared{}
	x := touchIndex{p: p}
	var got []int32
	for _, t := range []struct {
		span, slot int
		partition  int32
	}{{0, 3, 3}, {0, 3, 3}, {0, 4, 4}, {1, 3, 3}, {0, 3, 3}, {0, 4, 4}, {0, elsewhere, 8}, {0, elsewhere, 9}, {0, elsewhere, 8}} {
		got = append(got, x.of(t.span, t.slot, &kgo.Record{Topic: "t", Partition: t.partition}))
	}
	if diff := cmp.Diff([]int32{0, 0, 1, 2, 0, 1, 3, 4, 3}, got); diff != "" || len(p.touches) != 5 {
		t.Fatal(diff, p.touches)
	}
	want := []position.TP{{Topic: "t", Partition: 3}, {Topic: "t", Partition: 4}, {Topic: "t", Partition: 3}, {Topic: "t", Partition: 8}, {Topic: "t", Partition: 9}}
	if diff := cmp.Diff(want, p.targets); diff != "" {
		t.Fatal(diff)
	}
}
