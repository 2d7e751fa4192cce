package record

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestOriginRoundTrip(t *testing.T) {
	b := AppendOffsets(AppendPrefix(nil, "relay.1", "a-b_c", 12), 1<<40, -1)
	got, err := ParseOrigin(b)
	if want := (Origin{"relay.1", "a-b_c", 12, 1 << 40, -1}); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "a/b/0/1", "a/b/x/1/0", "a/b/0/x/0", "a/b/0/1/x", "a/b/0/1/0/9"} {
		if _, err := ParseOrigin([]byte(bad)); err == nil {
			t.Errorf("%q is taken for an origin", bad)
		}
	}
}

func TestLastOriginAndPassedThrough(t *testing.T) {
	r := &kgo.Record{Headers: []kgo.RecordHeader{
		{Key: "_origin", Value: []byte("first/t/0/1/0")}, {Key: "x", Value: []byte("third/t/0/1/0")}, {Key: "_origin", Value: []byte("second/t/0/5/4")},
	}}
	if o, ok := LastOrigin(r, "_origin"); !ok || o.RelayID != "second" || o.Offset != 5 {
		t.Fatalf("%+v %v", o, ok)
	}
	for id, want := range map[string]bool{"first": true, "second": true, "third": false, "fir": false, "firstt": false, "": false} {
		if got := PassedThrough(r, "_origin", id); got != want {
			t.Errorf("PassedThrough(%q) = %v", id, got)
		}
	}
	if _, ok := LastOrigin(&kgo.Record{}, "_origin"); ok {
		t.Error("an origin without a header")
	}
}

func TestFingerprint(t *testing.T) {
	base := func() *kgo.Record {
		return &kgo.Record{Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("b")}}}
	}
	same := base()
	same.Timestamp, same.Offset, same.Partition = time.UnixMilli(5), 9, 3
	if Fingerprint(base()) != Fingerprint(same) {
		t.Error("timestamp, offset or partition counts")
	}
	for name, change := range map[string]func(*kgo.Record){
		"key": func(r *kgo.Record) { r.Key = []byte("l") }, "nil key": func(r *kgo.Record) { r.Key = nil },
		"value": func(r *kgo.Record) { r.Value = nil }, "empty value": func(r *kgo.Record) { r.Value = []byte{} },
		"border": func(r *kgo.Record) { r.Key, r.Value = []byte("kv"), []byte{} },
		"header": func(r *kgo.Record) { r.Headers[0].Value = nil }, "no header": func(r *kgo.Record) { r.Headers = nil },
	} {
		r := base()
		change(r)
		if Fingerprint(r) == Fingerprint(base()) {
			t.Errorf("%s does not count", name)
		}
	}
	a, b := base(), base()
	a.Value, b.Value = nil, []byte{}
	if Fingerprint(a) == Fingerprint(b) {
		t.Error("nil and empty are one")
	}
}

func source() *Source {
	return &Source{Batch: &Batch{Standard: true, Cluster: "dc1"}, Record: &kgo.Record{Topic: "t", Partition: 3, Offset: 42, Key: []byte("k"), Value: []byte("v"), Timestamp: time.UnixMilli(1234),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "n", Value: nil}, {Key: "a", Value: []byte("2")}}}}
}

func TestStandardMetadata(t *testing.T) {
	m := NewMessage(context.Background(), source())
	got := map[string]any{}
	_ = m.MetaWalkMut(func(k string, v any) error { got[k] = v; return nil })
	delete(got, MetaOrigin)
	want := map[string]any{
		"kafka_key": []byte("k"), "kafka_topic": "t", "kafka_partition": 3, "kafka_offset": 42, "kafka_timestamp_ms": int64(1234),
		"kafka_tombstone_message": false, "kafka_source": "dc1", "a": "2", "n": nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	none := source()
	none.Batch.Standard = false
	m = NewMessage(context.Background(), none)
	n := 0
	_ = m.MetaWalkMut(func(string, any) error { n++; return nil })
	if n != 1 || SourceOf(m) == nil {
		t.Fatalf("metadata: none sets %d entries", n)
	}
	if b, err := json.Marshal(SourceOf(m)); err != nil || string(b) != `{"offset":42,"partition":3,"topic":"t"}` {
		t.Fatalf("%s, %v", b, err)
	}
}

func TestFill(t *testing.T) {
	h := func(kv ...string) (out []kgo.RecordHeader) {
		for i := 0; i < len(kv); i += 2 {
			out = append(out, kgo.RecordHeader{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return out
	}
	orig := source().Record.Headers
	for name, c := range map[string]struct {
		standard bool
		change   func(*service.Message)
		key      []byte
		headers  []kgo.RecordHeader
	}{
		"untouched, standard":      {true, func(*service.Message) {}, []byte("k"), orig},
		"untouched, none":          {false, func(*service.Message) {}, []byte("k"), orig},
		"key changed":              {true, func(m *service.Message) { m.MetaSetMut(MetaKey, "x") }, []byte("x"), orig},
		"key changed, none":        {false, func(m *service.Message) { m.MetaSetMut(MetaKey, "x") }, []byte("x"), orig},
		"key set to itself":        {true, func(m *service.Message) { m.MetaSetMut(MetaKey, "k") }, []byte("k"), orig},
		"key deleted":              {true, func(m *service.Message) { m.MetaDelete(MetaKey) }, nil, orig},
		"key a number":             {true, func(m *service.Message) { m.MetaSetMut(MetaKey, 7) }, []byte("7"), orig},
		"header changed":           {true, func(m *service.Message) { m.MetaSetMut("a", "x") }, []byte("k"), []kgo.RecordHeader{{Key: "a", Value: []byte("x")}, {Key: "n"}}},
		"header changed, none":     {false, func(m *service.Message) { m.MetaSetMut("a", "x") }, []byte("k"), []kgo.RecordHeader{{Key: "a", Value: []byte("x")}, {Key: "n"}}},
		"header deleted":           {true, func(m *service.Message) { m.MetaDelete("a") }, []byte("k"), []kgo.RecordHeader{{Key: "n"}}},
		"null header set to empty": {true, func(m *service.Message) { m.MetaSetMut("n", "") }, []byte("k"), append(h("a", "1"), append([]kgo.RecordHeader{{Key: "n", Value: []byte{}}}, h("a", "2")...)...)},
		"header a list":            {true, func(m *service.Message) { m.MetaSetMut("a", []any{"x", "y"}) }, []byte("k"), []kgo.RecordHeader{{Key: "a", Value: []byte("x")}, {Key: "a", Value: []byte("y")}, {Key: "n"}}},
		"new metadata":             {true, func(m *service.Message) { m.MetaSetMut("new", "x") }, []byte("k"), orig},
	} {
		t.Run(name, func(t *testing.T) {
			s := source()
			s.Batch.Standard = c.standard
			m := NewMessage(context.Background(), s)
			c.change(m)
			var r kgo.Record
			if _, err := (Rules{Standard: c.standard}).Fill(&r, m, s.Record, nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.key, r.Key); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.headers, r.Headers); diff != "" {
				t.Error(diff)
			}
			if !r.Timestamp.Equal(s.Record.Timestamp) || string(r.Value) != "v" {
				t.Errorf("timestamp %v, value %q", r.Timestamp, r.Value)
			}
		})
	}
}

func TestNullAndEmptyValues(t *testing.T) {
	for _, c := range []struct {
		was, set []byte
		change   bool
		want     []byte
	}{
		{nil, nil, false, nil}, {[]byte{}, nil, false, []byte{}}, {[]byte("v"), []byte{}, true, []byte{}}, {nil, []byte("x"), true, []byte("x")},
	} {
		s := &Source{Record: &kgo.Record{Value: c.was}, Batch: &Batch{Standard: true}}
		m := NewMessage(context.Background(), s)
		if c.change {
			m.SetBytes(c.set)
		}
		var r kgo.Record
		if _, err := (Rules{Standard: true}).Fill(&r, m, s.Record, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, r.Value); diff != "" {
			t.Errorf("was %#v: %s", c.was, diff)
		}
	}
}

// One backing array serves many records, and none writes into another's.
func TestFillSharesHeadersSafely(t *testing.T) {
	var hs []kgo.RecordHeader
	rs := make([]kgo.Record, 50)
	for i := range rs {
		s := source()
		m := NewMessage(context.Background(), s)
		var err error
		if hs, err = (Rules{Standard: true, TimestampHeader: "_t"}).Fill(&rs[i], m, s.Record, hs); err != nil {
			t.Fatal(err)
		}
	}
	for i := range rs {
		if got := len(rs[i].Headers); got != 4 || rs[i].Headers[3].Key != "_t" || rs[i].Headers[0].Key != "a" {
			t.Fatalf("record %d has headers %v", i, rs[i].Headers)
		}
		_ = append(rs[i].Headers, kgo.RecordHeader{Key: "spill"})
	}
	if rs[1].Headers[0].Key != "a" {
		t.Fatal("appending to one record's headers wrote into the next one's")
	}
}
