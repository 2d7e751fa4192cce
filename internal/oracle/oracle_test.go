package oracle

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// The oracle itself is tested with planted faults: each is found, and counted
// as what it is.
func TestPlantedFaults(t *testing.T) {
	copyOf := func(i int) *kgo.Record { return withOrigin(plain(i), i) }
	all := func() (rs []*kgo.Record) {
		for i := range 100 {
			rs = append(rs, copyOf(i))
		}
		return rs
	}
	for name, c := range map[string]struct {
		plant func([]*kgo.Record) []*kgo.Record
		want  Report
	}{
		"nothing":           {func(rs []*kgo.Record) []*kgo.Record { return rs }, Report{}},
		"loss":              {func(rs []*kgo.Record) []*kgo.Record { return slices.Delete(rs, 40, 43) }, Report{Lost: 3}},
		"a lost tail":       {func(rs []*kgo.Record) []*kgo.Record { return rs[:90] }, Report{Lost: 10}},
		"a duplicate":       {func(rs []*kgo.Record) []*kgo.Record { return slices.Insert(rs, 51, copyOf(50)) }, Report{Duplicated: 1}},
		"a replayed suffix": {func(rs []*kgo.Record) []*kgo.Record { return append(rs[:60:60], rs[50:]...) }, Report{Duplicated: 10}},
		"a hole, then a replay": {func(rs []*kgo.Record) []*kgo.Record {
			return slices.Concat(rs[:50], rs[60:70], rs[50:])
		}, Report{Duplicated: 10}},
		"a hole filled behind": {func(rs []*kgo.Record) []*kgo.Record {
			return slices.Concat(rs[:50], rs[60:], rs[50:60])
		}, Report{Reordered: 40}},
		"a swap":                 {func(rs []*kgo.Record) []*kgo.Record { rs[10], rs[11] = rs[11], rs[10]; return rs }, Report{Reordered: 1}},
		"an old copy at the end": {func(rs []*kgo.Record) []*kgo.Record { return append(rs, copyOf(98)) }, Report{Duplicated: 1, Reordered: 1}},
		"altered value":          {func(rs []*kgo.Record) []*kgo.Record { rs[5].Value = []byte("x"); return rs }, Report{Altered: 1}},
		"altered key":            {func(rs []*kgo.Record) []*kgo.Record { rs[5].Key = nil; return rs }, Report{Altered: 1}},
		"empty for null":         {func(rs []*kgo.Record) []*kgo.Record { rs[7].Value = []byte{}; return rs }, Report{Altered: 1}},
		"altered timestamp": {func(rs []*kgo.Record) []*kgo.Record {
			rs[5].Timestamp = rs[5].Timestamp.Add(time.Millisecond)
			return rs
		}, Report{Altered: 1}},
		"altered header": {func(rs []*kgo.Record) []*kgo.Record { rs[5].Headers[0].Value = []byte("x"); return rs }, Report{Altered: 1}},
		"header order": {func(rs []*kgo.Record) []*kgo.Record {
			h := rs[5].Headers
			h[0], h[1] = h[1], h[0]
			return rs
		}, Report{Altered: 1}},
		"wrong partition":   {func(rs []*kgo.Record) []*kgo.Record { rs[99].Partition = 1; return rs }, Report{Misplaced: 1}},
		"foreign":           {func(rs []*kgo.Record) []*kgo.Record { return append(rs, plain(5)) }, Report{Foreign: 1}},
		"beyond the source": {func(rs []*kgo.Record) []*kgo.Record { return append(rs, copyOf(100)) }, Report{Foreign: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := fakePair(t)
			var source []*kgo.Record
			for i := range 100 {
				source = append(source, plain(i))
			}
			write(t, src, source)
			write(t, dst, c.plant(all()))
			got, err := Compare(context.Background(), src, dst, Options{Topics: map[string]string{"t": "t"}})
			if err != nil {
				t.Fatal(err)
			}
			found := *got
			found.Source, found.Target, found.Examples = 0, 0, nil
			if fmt.Sprint(found) != fmt.Sprint(c.want) {
				t.Fatalf("got %v\nwant %v", got, &c.want)
			}
			clean := c.want.Lost+c.want.Reordered+c.want.Altered+c.want.Misplaced+c.want.Foreign == 0
			if got.Faithful() != clean || got.Exact() != (clean && c.want.Duplicated == 0) {
				t.Fatalf("Faithful %v, Exact %v: %v", got.Faithful(), got.Exact(), got)
			}
			if !got.Exact() && got.String() == "" {
				t.Fatal("a report that says nothing")
			}
		})
	}
}

func plain(i int) *kgo.Record {
	r := &kgo.Record{Topic: "t", Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}}
	if i == 7 {
		r.Value = nil
	}
	return r
}

func withOrigin(r *kgo.Record, i int) *kgo.Record {
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "_origin", Value: fmt.Appendf(nil, "r/t/0/%d/%d", i, i-1)})
	return r
}

func fakePair(t *testing.T) (src, dst *kafka.Cluster) {
	t.Helper()
	open := func(id string) *kafka.Cluster {
		c := kafkatest.Fake(t, id, kfake.SeedTopics(2, "t"))
		a, err := kafka.Conn{Name: id, SeedBrokers: c.ListenAddrs(), ClientID: "test", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute}.Admin()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		return a
	}
	return open("source"), open("target")
}

func write(t *testing.T, c *kafka.Cluster, rs []*kgo.Record) {
	t.Helper()
	own := make([]*kgo.Record, len(rs))
	for i, r := range rs { // a record may be written twice, and its client writes into it
		c := *r
		own[i] = &c
	}
	if err := c.Client.ProduceSync(context.Background(), own...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// A target that keeps neither partitions nor origins is compared by keys.
func TestByKey(t *testing.T) {
	src, dst := fakePair(t)
	var source, target []*kgo.Record
	for i := range 100 {
		source, target = append(source, plain(i)), append(target, plain(i))
	}
	target[10], target[11] = target[11], target[10]
	target[99].Partition = 1
	target[20].Timestamp = time.UnixMilli(1)
	target = append(slices.Delete(target, 50, 52), plain(97), plain(100))
	write(t, src, source)
	write(t, dst, target)
	got, err := Compare(context.Background(), src, dst, Options{Topics: map[string]string{"t": "t"}, ByKey: true})
	if err != nil {
		t.Fatal(err)
	}
	got.Examples = nil
	want := Report{Source: 100, Target: 100, Lost: 2, Duplicated: 1, Reordered: 2, Altered: 1, Misplaced: 1, Foreign: 1}
	if fmt.Sprint(*got) != fmt.Sprint(want) {
		t.Fatalf("got %v\nwant %v", got, &want)
	}
}
