package position

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMarkRoundTrip(t *testing.T) {
	m := Mark{
		Version: MarkVersion, Next: 42, Covered: map[int32]int64{0: 7, 3: 9}, TargetTopicID: "abc",
		Sources:    []SourceID{{"c1", "t1"}, {"c2", ""}},
		Generation: 3, Instance: "i", Partitions: 2, Pairs: []Pair{{41, 0xfedcba9876543210}},
	}
	got, err := DecodeMark(m.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Fatal(diff)
	}
	// The format is documented: what a release wrote, the next one reads.
	const text = `{"v":1,"next":42,"covered":{"0":7,"3":9},"target_topic_id":"abc","sources":[{"cluster_id":"c1","topic_id":"t1"},{"cluster_id":"c2"}],"generation":3,"instance":"i","partitions":2,"pairs":[{"offset":41,"fingerprint":"fedcba9876543210"}]}`
	if diff := cmp.Diff(text, string(m.Encode())); diff != "" {
		t.Fatal(diff)
	}
	for _, bad := range []string{"", "{", `{"v":2,"next":1}`, `{"v":1,"next":-1}`, `{"next":1}`} {
		if _, err := DecodeMark([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a mark", bad)
		}
	}
}

func TestKeyRoundTrip(t *testing.T) {
	k := Key{RelayID: "dc-1.x_y", Source: TP{"a.b-c_d", 12}, Target: "t"}
	got, err := ParseKey(k.String())
	if err != nil || got != k {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "a/b/0", "a/b/x/c", "a/b/-1/c", "/b/0/c", "a//0/c", "a/b/0/", "a/b/0/c/d"} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q is taken for a key", bad)
		}
	}
}

func TestProve(t *testing.T) {
	for name, c := range map[string]struct {
		next int64
		seen []Seen
		want int64
	}{
		"nothing":                {10, nil, 10},
		"a chain":                {10, []Seen{{10, 9}, {11, 10}, {12, 11}}, 13},
		"filtered in between":    {10, []Seen{{15, 9}, {20, 15}}, 21},
		"a hole":                 {10, []Seen{{10, 9}, {14, 13}, {15, 14}}, 11},
		"from several, unsorted": {10, []Seen{{12, 11}, {10, 9}, {11, 10}}, 13},
		"a replay closes it":     {10, []Seen{{10, 9}, {14, 13}, {11, 10}, {12, 11}, {13, 12}}, 15},
		"pieces prove nothing":   {10, []Seen{{10, 10}, {10, 10}, {11, 10}}, 10},
		"behind pieces":          {10, []Seen{{10, 9}, {11, 11}, {12, 11}}, 11},
		"older ones":             {10, []Seen{{3, 2}, {4, 3}}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Prove(c.next, c.seen); got != c.want {
				t.Fatalf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestTracker(t *testing.T) {
	tr := NewTracker([]PartStart{{Next: 100, Slots: []int{0, 1}}, {Next: 0, Slots: []int{0}}}, []int64{5, 6})
	first := tr.Changed()
	if len(first) != 2 || first[0].Next != 100 || first[0].Covered[0] != 5 || first[0].Covered[1] != 6 {
		t.Fatalf("first statements: %+v", first)
	}
	if c := tr.Changed(); c != nil {
		t.Fatalf("nothing moved, and it says %+v", c)
	}
	a := tr.Read(0, 110, &Pair{Offset: 109, Fingerprint: 1})
	b := tr.Read(0, 120, &Pair{Offset: 119, Fingerprint: 2})
	tr.Hand(a, 0)
	tr.Hand(b, 1)
	tr.Landed(b, 1, 9)
	tr.Done(b)
	if got := tr.Next(0); got != 100 {
		t.Fatalf("next %d though the first run is not done", got)
	}
	if s := tr.State(0); s.Covered[0] != 5 || s.Covered[1] != 6 {
		t.Fatalf("covered %v: nothing before 100 was written there", s.Covered)
	}
	tr.Landed(a, 0, 7)
	tr.Done(a)
	s := tr.Changed()
	if len(s) != 1 || s[0].Next != 120 || s[0].Covered[0] != 7 || s[0].Covered[1] != 9 {
		t.Fatalf("%+v", s)
	}
	if diff := cmp.Diff([]Pair{{109, 1}, {119, 2}}, s[0].Pairs); diff != "" {
		t.Fatal(diff)
	}
	// The other part is quiet: its mark follows what others wrote to slot 0.
	if s := tr.State(1); s.Next != 0 || s.Covered[0] != 7 {
		t.Fatalf("quiet part: %+v", s)
	}
	// Until it has handed something over itself.
	c := tr.Read(1, 10, nil)
	tr.Hand(c, 0)
	d := tr.Read(0, 130, nil)
	tr.Hand(d, 0)
	tr.Landed(d, 0, 20)
	tr.Done(d)
	if s := tr.State(1); s.Covered[0] != 5 {
		t.Fatalf("covered %d reaches past what is under way", s.Covered[0])
	}
	tr.Skip(1, 15)
	if got := tr.Next(1); got != 0 {
		t.Fatalf("a skip went past what is under way: %d", got)
	}
	tr.Landed(c, 0, 22)
	tr.Done(c)
	if s := tr.State(1); s.Next != 15 || s.Covered[0] != 22 {
		t.Fatalf("%+v", s)
	}
}

func TestQuietPartsAreRefreshed(t *testing.T) {
	tr := NewTracker([]PartStart{{Slots: []int{0}}, {Slots: []int{0}}}, []int64{0})
	tr.Changed()
	e := tr.Read(0, 1, nil)
	tr.Hand(e, 0)
	tr.Landed(e, 0, staleAfter+1)
	tr.Done(e)
	if c := tr.Changed(); len(c) != 2 || c[1].Part != 1 || c[1].Covered[0] != staleAfter+1 {
		t.Fatalf("%+v", c)
	}
	if c := tr.Changed(); c != nil {
		t.Fatalf("refreshed twice: %+v", c)
	}
}

func TestPairsThinOut(t *testing.T) {
	var pairs []Pair
	for i := range int64(1_000) {
		pairs = addPair(pairs, Pair{Offset: i})
		if len(pairs) > MaxPairs {
			t.Fatalf("%d pairs", len(pairs))
		}
	}
	if got := pairs[len(pairs)-1].Offset; got != 999 {
		t.Fatalf("the last sample is %d", got)
	}
	for i := 1; i < len(pairs); i++ {
		if pairs[i].Offset <= pairs[i-1].Offset {
			t.Fatalf("pairs do not rise: %v", pairs)
		}
	}
	if again := addPair(pairs, Pair{Offset: 999}); len(again) != len(pairs) {
		t.Fatal("the same sample twice")
	}
}

func TestResolve(t *testing.T) {
	key := Key{RelayID: "r", Source: TP{"s", 0}, Target: "t"}
	src := SourceID{"c1", "id1"}
	base := func(change func(*Evidence)) Evidence {
		e := Evidence{Key: key, Resume: ResumeAuto, SamePartition: true, TargetTopicID: "T", Source: src, Targets: []TargetLog{{0, 0, 50}}, Marked: []TargetLog{{0, 0, 50}}}
		change(&e)
		return e
	}
	mark := func(change func(*Mark)) *Mark {
		m := &Mark{Next: 30, Covered: map[int32]int64{0: 40}, TargetTopicID: "T", Sources: []SourceID{src}}
		change(m)
		return m
	}
	asIs := func(*Mark) {}
	for name, c := range map[string]struct {
		e    Evidence
		want Decision
		stop string
	}{
		"mark":                    {base(func(e *Evidence) { e.Mark = mark(asIs) }), Decision{Offset: 30}, ""},
		"mark and suffix":         {base(func(e *Evidence) { e.Mark = mark(asIs); e.Seen = []Seen{{30, 29}, {31, 30}, {40, 39}} }), Decision{Offset: 32}, ""},
		"mark beats start":        {base(func(e *Evidence) { e.Mark = mark(asIs); e.Resume = ResumeStart }), Decision{Offset: 30}, ""},
		"unknown source cluster":  {base(func(e *Evidence) { e.Mark = mark(func(m *Mark) { m.Sources = []SourceID{{"c9", "x"}} }) }), Decision{Offset: 30}, ""},
		"target recreated":        {base(func(e *Evidence) { e.Mark = mark(asIs); e.TargetTopicID = "U" }), Decision{}, "target topic \"t\" was deleted and recreated"},
		"target without IDs":      {base(func(e *Evidence) { e.Mark = mark(asIs); e.TargetTopicID = "" }), Decision{Offset: 30}, ""},
		"target below the mark":   {base(func(e *Evidence) { e.Mark = mark(asIs); e.Marked = []TargetLog{{0, 0, 39}} }), Decision{}, "has lost acknowledged records"},
		"target emptied":          {base(func(e *Evidence) { e.Mark = mark(asIs); e.Marked = []TargetLog{{0, 50, 50}} }), Decision{Offset: 30}, ""},
		"source recreated":        {base(func(e *Evidence) { e.Mark = mark(asIs); e.Source.TopicID = "id2" }), Decision{}, "source topic \"s\" was deleted and recreated"},
		"new partition":           {base(func(e *Evidence) { e.NewPartition = true }), Decision{Offset: 0}, ""},
		"other relay":             {base(func(e *Evidence) { e.OtherRelays = []string{"q"} }), Decision{}, "by relay_id \"q\""},
		"empty target":            {base(func(e *Evidence) { e.Targets = []TargetLog{{0, 0, 0}} }), Decision{Start: StartAtConfigured}, ""},
		"one of two is not empty": {base(func(e *Evidence) { e.SamePartition = false; e.Targets = []TargetLog{{0, 0, 0}, {1, 0, 3}} }), Decision{}, "cannot be checked by offsets"},
		"emptied, no mark":        {base(func(e *Evidence) { e.Targets = []TargetLog{{0, 9, 9}} }), Decision{}, "retention removed them all"},
		"copied":                  {base(func(*Evidence) {}), Decision{Start: StartChecked, Offset: 50}, ""},
		"copied, remapped":        {base(func(e *Evidence) { e.SamePartition = false }), Decision{}, "cannot be checked by offsets"},
		"start":                   {base(func(e *Evidence) { e.Resume = ResumeStart }), Decision{Start: StartAtConfigured}, ""},
		"watermark":               {base(func(e *Evidence) { e.Resume = ResumeWatermark; e.Mark = mark(asIs) }), Decision{Offset: 50}, ""},
		"watermark, empty":        {base(func(e *Evidence) { e.Resume = ResumeWatermark; e.Targets = []TargetLog{{0, 0, 0}} }), Decision{Start: StartAtConfigured}, ""},
		"watermark, remapped":     {base(func(e *Evidence) { e.Resume = ResumeWatermark; e.SamePartition = false }), Decision{}, "keeps partition numbers"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Resolve(c.e)
			if c.stop != "" {
				if err == nil || !strings.Contains(err.Error(), c.stop) {
					t.Fatalf("got %v, want a stop that says %q", err, c.stop)
				}
				if s, ok := err.(*Stop); !ok || s.Cure == "" {
					t.Fatalf("the stop has no cure: %v", err)
				}
				return
			}
			if err != nil || d.Start != c.want.Start || d.Offset != c.want.Offset {
				t.Fatalf("got %+v, %v, want %+v", d, err, c.want)
			}
		})
	}
}

func TestForgetCommand(t *testing.T) {
	got := ForgetCommand([]string{"a:1", "b:2"}, "p", Key{"r", TP{"s", 0}, "t"}, Key{"r", TP{"s", 1}, "t"})
	want := "echo r/s/0/t=NULL r/s/1/t=NULL | xargs -n1 | kafka-console-producer.sh --bootstrap-server a:1,b:2 --topic p --property parse.key=true --property key.separator== --property null.marker=NULL"
	if got != want {
		t.Fatal(got)
	}
}

// The age of what waits is told by the first record that is not done, else by the
// last that is.
func TestTrackerOldest(t *testing.T) {
	tr := NewTracker([]PartStart{{Slots: []int{0}}}, []int64{0})
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	want := func(s time.Time) {
		t.Helper()
		if got := tr.Oldest(0); !got.Equal(s) {
			t.Fatalf("oldest is %v, want %v", got, s)
		}
	}
	want(time.Time{})
	a, b := tr.Read(0, 10, nil), tr.Read(0, 20, nil)
	a.Date(at(1), at(10))
	b.Date(at(11), at(20))
	want(at(1))
	tr.Done(b) // not the first
	want(at(1))
	tr.Done(a)
	want(at(20))
	tr.Skip(0, 30)
	want(at(20))
	c := tr.Read(0, 40, nil)
	c.Date(at(31), at(40))
	want(at(31))
}
