package cachemarks

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// memory is a cache that counts what is asked of it, and can fail.
type memory struct {
	items      map[string][]byte
	gets, sets int
	fail       error
	// tear keeps half of what is written next.
	tear bool
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.gets++
	if m.fail != nil {
		return nil, m.fail
	}
	if v, ok := m.items[key]; ok {
		return v, nil
	}
	return nil, service.ErrKeyNotFound
}

func (m *memory) Set(_ context.Context, key string, value []byte, _ *time.Duration) error {
	m.sets++
	if m.fail != nil {
		return m.fail
	}
	if m.tear {
		value = value[:len(value)/2]
	}
	m.items[key] = value
	return nil
}

func (m *memory) Add(context.Context, string, []byte, *time.Duration) error {
	return errors.ErrUnsupported
}
func (m *memory) Delete(context.Context, string) error { return errors.ErrUnsupported }
func (m *memory) Close(context.Context) error          { return nil }

func (m *memory) access(_ context.Context, use func(service.Cache)) error {
	use(m)
	return nil
}

func newMemory() *memory { return &memory{items: map[string][]byte{}} }

func open(t *testing.T, m *memory) *Store {
	t.Helper()
	s, err := New(m.access, "r")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func key(p int32) position.Key {
	return position.Key{RelayID: "r", Source: position.TP{Topic: "orders", Partition: p}, Target: "orders"}
}

func mark(next int64) position.Mark {
	return position.Mark{Next: next, Partitions: 2, Sources: []position.SourceID{{ClusterID: "c", TopicID: "t"}}, Pairs: []position.Pair{{Offset: next - 1, Fingerprint: 0xfedcba9876543210}}}
}

func load(t *testing.T, s *Store) map[position.Key]position.Mark {
	t.Helper()
	marks, err := s.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return marks
}

func write(t *testing.T, s *Store, marks map[position.Key]position.Mark) {
	t.Helper()
	s.Put(marks)
	if err := s.Write(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestMarksReadBack(t *testing.T) {
	m := newMemory()
	s := open(t, m)
	if marks := load(t, s); len(marks) != 0 {
		t.Fatalf("an empty cache holds %v", marks)
	}
	s.Claim()
	write(t, s, map[position.Key]position.Mark{key(0): mark(5), key(1): mark(7)})
	write(t, s, map[position.Key]position.Mark{key(1): mark(9)}) // the other one stays
	got := load(t, open(t, m))
	want := map[position.Key]position.Mark{key(0): mark(5), key(1): mark(9)}
	for k, w := range want {
		w.Version, w.Generation, w.Instance = position.MarkVersion, 1, s.instance
		if diff := cmp.Diff(w, got[k]); diff != "" {
			t.Errorf("%s: %s", k, diff)
		}
	}
	if len(got) != 2 {
		t.Errorf("%d marks", len(got))
	}
	next := open(t, m)
	load(t, next)
	next.Claim()
	next.Claim()
	if next.generation != 2 {
		t.Errorf("the next instance has generation %d", next.generation)
	}
}

// However many partitions there are, marks are one write.
func TestOneWrite(t *testing.T) {
	m := newMemory()
	s := open(t, m)
	marks := map[position.Key]position.Mark{}
	for p := range int32(2000) {
		k := mark(100)
		k.Pairs = make([]position.Pair, position.MaxPairs)
		k.Pairs[position.MaxPairs-1].Offset = 99
		marks[key(p)] = k
	}
	write(t, s, marks)
	if m.sets != 1 || m.gets != 2 {
		t.Errorf("%d sets and %d gets", m.sets, m.gets)
	}
	for k, text := range m.items {
		if len(text) > 1<<20 {
			t.Errorf("%s holds %d bytes", k, len(text))
		}
	}
	if pairs := load(t, s)[key(3)].Pairs; len(pairs) != 2 || pairs[1].Offset != 99 {
		t.Errorf("the last samples are to be kept: %v", pairs)
	}
}

func TestTornWrite(t *testing.T) {
	m := newMemory()
	s := open(t, m)
	s.Claim()
	write(t, s, map[position.Key]position.Mark{key(0): mark(5)})
	m.tear = true
	write(t, s, map[position.Key]position.Mark{key(0): mark(6)}) // and kill -9
	m.tear = false
	again := open(t, m)
	if got := load(t, again)[key(0)].Next; got != 5 {
		t.Fatalf("next is %d", got)
	}
	again.Claim()
	write(t, again, map[position.Key]position.Mark{key(0): mark(7)})
	if got := load(t, open(t, m))[key(0)].Next; got != 7 {
		t.Fatalf("next is %d", got)
	}
}

func TestNotReadable(t *testing.T) {
	for name, text := range map[string]string{
		"no document":  "{",
		"version":      `{"v":2,"seq":1,"marks":{}}`,
		"key":          `{"v":1,"seq":1,"marks":{"x":{"v":1}}}`,
		"mark":         `{"v":1,"seq":1,"marks":{"r/orders/0/orders":{"v":7}}}`,
		"mark, a next": `{"v":1,"seq":1,"marks":{"r/orders/0/orders":{"v":1,"next":-1}}}`,
	} {
		m := newMemory()
		m.items[Keys("r")[1]] = []byte(text)
		_, err := open(t, m).Load(context.Background())
		var stop *position.Stop
		if !errors.As(err, &stop) || !strings.Contains(err.Error(), "remove the keys kafka_failover.r.0 and kafka_failover.r.1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A cache that fails is no empty cache.
func TestFailingCache(t *testing.T) {
	m := newMemory()
	s := open(t, m)
	write(t, s, map[position.Key]position.Mark{key(0): mark(5)})
	m.fail = errors.New("connection refused")
	if _, err := s.Load(context.Background()); !errors.Is(err, m.fail) {
		t.Fatalf("reading: %v", err)
	}
	s.Put(map[position.Key]position.Mark{key(0): mark(6)})
	if err := s.Write(context.Background()); !errors.Is(err, m.fail) {
		t.Fatalf("writing: %v", err)
	}
	m.fail = nil
	if err := s.Write(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := load(t, s)[key(0)].Next; got != 6 {
		t.Fatalf("next is %d", got)
	}
}

func TestTakenOver(t *testing.T) {
	m := newMemory()
	older, newer := open(t, m), open(t, m)
	load(t, older)
	older.Claim()
	write(t, older, map[position.Key]position.Mark{key(0): mark(5)})
	load(t, newer)
	newer.Claim()
	write(t, newer, map[position.Key]position.Mark{key(0): mark(6)})
	older.Put(map[position.Key]position.Mark{key(1): mark(8)}) // whatever it relays: they share the keys
	var stop *position.Stop
	if err := older.Write(context.Background()); !errors.As(err, &stop) || !strings.Contains(err.Error(), "has taken over") {
		t.Fatal(err)
	}
	write(t, newer, map[position.Key]position.Mark{key(0): mark(7)})
}

// What the cache lost while the relay ran is not taken for a position.
func TestLostMarks(t *testing.T) {
	m := newMemory()
	s := open(t, m)
	load(t, s)
	s.Claim()
	write(t, s, map[position.Key]position.Mark{key(0): mark(5), key(1): mark(7)})
	if s.Dirty() {
		t.Fatal("written and dirty")
	}
	write(t, s, map[position.Key]position.Mark{key(0): mark(5)})
	if m.sets != 1 {
		t.Fatalf("%d writes, of which one had something to say", m.sets)
	}
	clear(m.items)
	if got := load(t, s); got[key(0)].Next != 5 || got[key(1)].Next != 7 {
		t.Fatalf("after the cache lost them: %v", got)
	}
	write(t, s, nil)
	if got := load(t, open(t, m)); len(got) != 2 {
		t.Fatalf("the cache holds %v", got)
	}
}
