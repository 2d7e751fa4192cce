package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record i of source partition 0; the seventh is a tombstone.
func plain(i int) *kgo.Record {
	r := &kgo.Record{Topic: "t", Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i), Timestamp: epoch.Add(time.Duration(i) * time.Second),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}}
	if i == 7 {
		r.Value = nil
	}
	return r
}

var epoch = time.UnixMilli(1_700_000_000_000)

func relayed(i int) *kgo.Record {
	return withOrigin(plain(i), fmt.Sprintf("r/t/0/%d/%d", i, i-1))
}

func many(n int, make func(int) *kgo.Record) []*kgo.Record {
	out := []*kgo.Record{}
	for i := range n {
		out = append(out, make(i))
	}
	return out
}

func cluster(t *testing.T, id string) *kafka.Cluster {
	t.Helper()
	f := kafkatest.Fake(t, id, kfake.SeedTopics(2, "t"))
	c, err := kafka.Conn{Name: id, SeedBrokers: f.ListenAddrs(), ClientID: "test", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute}.Admin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func write(t *testing.T, c *kafka.Cluster, records ...*kgo.Record) {
	t.Helper()
	for _, r := range records { // one may be written twice, and its client writes into it
		own := *r
		if err := c.Client.ProduceSync(context.Background(), &own).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func verified(t *testing.T, o Options) *Result {
	t.Helper()
	if o.Routes == nil {
		o.Routes = []relay.Route{{Source: "t", Target: "t"}}
	}
	if o.Header == "" {
		o.Header = "_origin"
	}
	if o.RelayID == "" {
		o.RelayID = "r"
	}
	var total, passed atomic.Int64
	o.Total, o.Passed = total.Store, func(n int64) { passed.Add(n) }
	o.Committed = true
	result, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if total.Load() != passed.Load() {
		t.Errorf("%d offsets passed of %d announced", passed.Load(), total.Load())
	}
	return result
}

// Every kind of difference is found and counted as what it is, as the oracle
// counts it, which knows nothing of streams.
func TestPlantedFaults(t *testing.T) {
	for name, c := range map[string]struct {
		plant func([]*kgo.Record) []*kgo.Record
		want  Report
	}{
		"nothing":               {func(rs []*kgo.Record) []*kgo.Record { return rs }, Report{}},
		"loss":                  {func(rs []*kgo.Record) []*kgo.Record { return slices.Delete(rs, 40, 43) }, Report{Lost: 3}},
		"the end is missing":    {func(rs []*kgo.Record) []*kgo.Record { return rs[:90] }, Report{Pending: 10}},
		"everything is missing": {func([]*kgo.Record) []*kgo.Record { return nil }, Report{Pending: 100}},
		"a duplicate":           {func(rs []*kgo.Record) []*kgo.Record { return slices.Insert(rs, 51, relayed(50)) }, Report{Duplicated: 1}},
		"a replayed suffix":     {func(rs []*kgo.Record) []*kgo.Record { return append(rs[:60:60], rs[50:]...) }, Report{Duplicated: 10}},
		"a hole, then a replay": {func(rs []*kgo.Record) []*kgo.Record { return slices.Concat(rs[:50], rs[60:70], rs[50:]) }, Report{Duplicated: 10}},
		"a hole filled behind":  {func(rs []*kgo.Record) []*kgo.Record { return slices.Concat(rs[:50], rs[60:], rs[50:60]) }, Report{Reordered: 40}},
		"a swap":                {func(rs []*kgo.Record) []*kgo.Record { rs[10], rs[11] = rs[11], rs[10]; return rs }, Report{Reordered: 1}},
		"an old copy":           {func(rs []*kgo.Record) []*kgo.Record { return append(rs, relayed(98)) }, Report{Duplicated: 1, Reordered: 1}},
		"value":                 {func(rs []*kgo.Record) []*kgo.Record { rs[5].Value = []byte("x"); return rs }, Report{Altered: 1}},
		"key":                   {func(rs []*kgo.Record) []*kgo.Record { rs[5].Key = nil; return rs }, Report{Altered: 1}},
		"empty for null":        {func(rs []*kgo.Record) []*kgo.Record { rs[7].Value = []byte{}; return rs }, Report{Altered: 1}},
		"timestamp":             {func(rs []*kgo.Record) []*kgo.Record { rs[5].Timestamp = rs[5].Timestamp.Add(1e6); return rs }, Report{Altered: 1}},
		"header":                {func(rs []*kgo.Record) []*kgo.Record { rs[5].Headers[0].Value = []byte("x"); return rs }, Report{Altered: 1}},
		"partition":             {func(rs []*kgo.Record) []*kgo.Record { rs[99].Partition = 1; return rs }, Report{Misplaced: 1}},
		"foreign":               {func(rs []*kgo.Record) []*kgo.Record { return append(rs, plain(5)) }, Report{Foreign: 1}},
		"another topic's":       {func(rs []*kgo.Record) []*kgo.Record { return append(rs, from("other", 3)) }, Report{Foreign: 1}},
		"beyond the source":     {func(rs []*kgo.Record) []*kgo.Record { return append(rs, relayed(100)) }, Report{Foreign: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := cluster(t, "source"), cluster(t, "target")
			write(t, src, many(100, plain)...)
			write(t, dst, c.plant(many(100, relayed))...)
			result := verified(t, Options{Source: src, Target: dst})
			got := result.Total
			if equal := fmt.Sprint(c.want) == fmt.Sprint(Report{}); got.Equal() != equal {
				t.Errorf("Equal is %v", got.Equal())
			}
			if !got.Equal() && got.Duplicated+got.Pending == 0 && len(got.Examples) == 0 {
				t.Error("a difference without an example")
			}
			judged, err := oracle.Compare(context.Background(), src, dst, oracle.Options{Topics: map[string]string{"t": "t"}})
			if err != nil {
				t.Fatal(err)
			}
			if int64(judged.Lost) != got.Lost+got.Pending || int64(judged.Duplicated) != got.Duplicated || int64(judged.Reordered) != got.Reordered ||
				int64(judged.Altered) != got.Altered || int64(judged.Misplaced) != got.Misplaced || int64(judged.Foreign) != got.Foreign {
				t.Errorf("the oracle says %v", judged)
			}
			if got.Expected != 100 || got.Found != int64(judged.Target) {
				t.Errorf("expected %d, found %d", got.Expected, got.Found)
			}
			got.Expected, got.Found, got.Examples = 0, 0, nil
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func from(topic string, i int) *kgo.Record {
	return withOrigin(plain(i), fmt.Sprintf("r/%s/0/%d/%d", topic, i, i-1))
}

// What the marks say was passed is lost, and what lies behind is pending.
func TestMarksTellLostFromPending(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	write(t, src, many(100, plain)...)
	write(t, dst, many(80, relayed)...)
	got := verified(t, Options{Source: src, Target: dst, Positions: map[position.TP]int64{{Topic: "t"}: 85}}).Total
	if got.Lost != 5 || got.Pending != 15 {
		t.Errorf("lost %d, pending %d, want 5 and 15", got.Lost, got.Pending)
	}
}

// A copy without origins, as other tools make it, is compared by offsets.
func TestCopyOfAnotherTool(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	write(t, src, many(50, plain)...)
	write(t, dst, many(20, plain)...)
	write(t, dst, many(50, relayed)[20:]...)
	if got := verified(t, Options{Source: src, Target: dst}).Total; !got.Equal() || got.Expected != 50 {
		t.Errorf("%+v", got)
	}
}

// --since leaves out what is older on both sides.
func TestSince(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	write(t, src, many(100, plain)...)
	write(t, dst, slices.Delete(many(100, relayed), 30, 70)...)
	if got := verified(t, Options{Source: src, Target: dst, Since: epoch.Add(75 * time.Second)}).Total; !got.Equal() || got.Expected != 25 {
		t.Errorf("since 75 s: %+v", got)
	}
	if got := verified(t, Options{Source: src, Target: dst, Since: epoch.Add(60 * time.Second)}).Total; got.Lost != 10 {
		t.Errorf("since 60 s: %+v", got)
	}
}

// What retention has removed from one side is named, and is no difference; but no
// more than it can have removed, and nothing that the relay has not come to.
func TestExpired(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	write(t, src, many(100, plain)...)
	write(t, dst, many(100, relayed)...)
	for _, c := range []struct {
		cluster *kafka.Cluster
		at      int64
	}{{src, 30}, {dst, 40}} {
		trim(t, c.cluster, c.at)
		got := verified(t, Options{Source: src, Target: dst})
		if !got.Total.Equal() || got.Total.Expired == 0 || !strings.Contains(strings.Join(got.Warnings, " "), "removed from one side by retention") {
			t.Errorf("after deleting up to %d: %+v", c.at, got)
		}
	}

	src, dst = cluster(t, "source"), cluster(t, "target")
	write(t, src, many(100, plain)...)
	write(t, dst, append([]*kgo.Record{relayed(0)}, many(100, relayed)[60:]...)...)
	trim(t, dst, 1)
	if got := verified(t, Options{Source: src, Target: dst}).Total; got.Lost != 59 || got.Expired != 1 {
		t.Errorf("one record removed, 59 lost: %+v", got)
	}
	trim(t, dst, 41)
	if got := verified(t, Options{Source: src, Target: dst}).Total; got.Pending != 100 {
		t.Errorf("an emptied target without a mark: %+v", got)
	}
	if got := verified(t, Options{Source: src, Target: dst, Positions: map[position.TP]int64{{Topic: "t"}: 41}}).Total; got.Expired != 41 || got.Pending != 59 {
		t.Errorf("an emptied target with a mark: %+v", got)
	}
}

// Strangers do not pass for records that are out of the comparison.
func TestStrangersOutsideTheComparison(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	write(t, src, many(200, plain)...)
	trim(t, src, 100)
	write(t, dst, many(200, relayed)[100:]...)
	for i := range 7 {
		write(t, dst, plain(500+i))
	}
	write(t, dst, relayed(199))
	for _, since := range []time.Time{{}, epoch.Add(110 * time.Second)} {
		if got := verified(t, Options{Source: src, Target: dst, Since: since}).Total; got.Foreign != 7 || got.Duplicated != 1 {
			t.Errorf("since %v: %+v", since, got)
		}
	}
}

// Timestamps need not rise: --since asks for what is not older itself.
func TestSinceWithTimestampsThatFall(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	for i := range 40 {
		r := plain(i)
		if i > 20 && i < 28 { // late ones, where not all partitions have begun
			r.Timestamp = epoch
		}
		write(t, src, r)
		c := *r
		c.Partition = int32(relay.PartitionByKey(r, 0, 2))
		c.Headers = append(slices.Clone(r.Headers), relayed(i).Headers[2])
		write(t, dst, &c)
	}
	route := relay.Route{Source: "t", Target: "t", Mode: relay.ByKey}
	if got := verified(t, Options{Source: src, Target: dst, Routes: []relay.Route{route}, Since: epoch.Add(20 * time.Second)}).Total; !got.Equal() || got.Found < 15 {
		t.Errorf("%+v", got)
	}
}

// Where start_offset began behind the source's start, nothing before is missed.
func TestBeforeTheStart(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	write(t, src, many(100, plain)...)
	write(t, dst, many(100, relayed)[40:]...)
	if got := verified(t, Options{Source: src, Target: dst, Later: true}).Total; !got.Equal() || got.Before != 40 {
		t.Errorf("%+v", got)
	}
	if got := verified(t, Options{Source: src, Target: dst}).Total; got.Lost != 40 {
		t.Errorf("from the beginning: %+v", got)
	}
}

// Another tool's copy of records that an earlier relay wrote is compared as it
// is; what this relay wrote under another relay_id counts as its own.
func TestOriginsOfOthers(t *testing.T) {
	earlier := func(i int) *kgo.Record { return withOrigin(plain(i), fmt.Sprintf("first/t/0/%d/%d", i+7, i+6)) }
	src, dst := cluster(t, "source"), cluster(t, "target")
	write(t, src, many(30, earlier)...)
	write(t, dst, many(20, earlier)...)
	for i := 20; i < 30; i++ {
		write(t, dst, withOrigin(earlier(i), fmt.Sprintf("r/t/0/%d/%d", i, i-1)))
	}
	if got := verified(t, Options{Source: src, Target: dst}).Total; !got.Equal() || got.Found != 30 {
		t.Errorf("a copied chain: %+v", got)
	}

	src, dst = cluster(t, "source"), cluster(t, "target")
	write(t, src, many(60, plain)...)
	write(t, dst, many(60, relayed)[30:]...) // at other offsets
	if got := verified(t, Options{Source: src, Target: dst, RelayID: "renamed", Later: true}).Total; !got.Equal() || got.Found != 30 {
		t.Errorf("under another relay_id: %+v", got)
	}
}

func withOrigin(r *kgo.Record, origin string) *kgo.Record {
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "_origin", Value: []byte(origin)})
	return r
}

func trim(t *testing.T, c *kafka.Cluster, to int64) {
	t.Helper()
	var o kadm.Offsets
	o.AddOffset("t", 0, to, -1)
	if _, err := c.Admin.DeleteRecords(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

// Several source partitions in one target partition, and partitions by key.
func TestRoutes(t *testing.T) {
	for name, mode := range map[string]relay.Mode{"fixed": relay.FixedPartition, "by key": relay.ByKey} {
		t.Run(name, func(t *testing.T) {
			src, dst := cluster(t, "source"), cluster(t, "target")
			next := [2]int64{}
			for i := range 60 {
				r := plain(i)
				r.Partition = int32(i % 2)
				write(t, src, r)
				c := plain(i)
				c.Partition = 1
				if mode == relay.ByKey {
					c.Partition = int32(relay.PartitionByKey(c, 0, 2))
				}
				c.Headers = append(c.Headers, kgo.RecordHeader{Key: "_origin", Value: fmt.Appendf(nil, "r/t/%d/%d/%d", i%2, next[i%2], next[i%2]-1)})
				next[i%2]++
				write(t, dst, c)
			}
			route := relay.Route{Source: "t", Target: "t", Mode: mode, Partition: 1}
			if got := verified(t, Options{Source: src, Target: dst, Routes: []relay.Route{route}}).Total; !got.Equal() || got.Expected != 60 {
				t.Errorf("%+v", got)
			}
			route.Mode = relay.SamePartition
			if got := verified(t, Options{Source: src, Target: dst, Routes: []relay.Route{route}}).Total; got.Misplaced == 0 {
				t.Errorf("as if partitions were kept: %+v", got)
			}
		})
	}
}

// A topic that is missing is an error that names it.
func TestMissingTopic(t *testing.T) {
	src, dst := cluster(t, "source"), cluster(t, "target")
	_, err := Run(context.Background(), Options{Source: src, Target: dst, Routes: []relay.Route{{Source: "nowhere", Target: "t"}}})
	if err == nil || !strings.Contains(err.Error(), `no topic "nowhere"`) {
		t.Error(err)
	}
}
