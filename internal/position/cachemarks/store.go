// Package cachemarks keeps marks in a Benthos cache, for outputs that are not
// Kafka.
//
// All marks of a relay are one document, so that a write is one operation and
// never leaves marks of different moments. It is written to two keys by turns:
// a write that was torn (a file cache and kill -9) leaves the other.
package cachemarks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// version of the document.
const version = 1

// samplesAtMost bounds the samples of a document: some 250 KB of it.
const samplesAtMost = 4096

// Access gives the cache for one use, as service.Resources.AccessCache does.
type Access func(ctx context.Context, use func(service.Cache)) error

// Store holds the marks of one relay. Its owner uses it from one goroutine at a
// time.
type Store struct {
	access Access
	relay  string
	// instance tells this store's owner from any other that writes the same
	// marks, generation from those before; 0 until Claim.
	instance   string
	generation int64
	seq        int64 // of the document read or written last
	marks      map[position.Key]position.Mark
	// dirty: the cache does not hold marks as they are here.
	dirty bool
}

// document is what stands under a key.
type document struct {
	Version int `json:"v"`
	// Seq rises with each write: of two documents the higher one counts.
	Seq int64 `json:"seq"`
	// Marks by position.Key as text.
	Marks map[string]json.RawMessage `json:"marks"`
}

// New returns the store of a relay of this name; it reads nothing yet.
func New(access Access, relay string) (*Store, error) {
	id := make([]byte, 6)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	return &Store{access: access, relay: relay, instance: hex.EncodeToString(id)}, nil
}

// Keys are the keys of the cache that hold the marks of a relay. They have no
// slash: in a cache of files they are names.
func Keys(relay string) [2]string {
	return [2]string{"kafka_failover." + relay + ".0", "kafka_failover." + relay + ".1"}
}

// Load reads the marks. Of those that this store has put itself, what the cache has
// lost since counts all the same. The error is a *position.Stop where what stands
// there cannot be read.
func (s *Store) Load(ctx context.Context) (map[position.Key]position.Mark, error) {
	marks, seq, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	if s.generation > 0 {
		for k, m := range s.marks {
			if there, ok := marks[k]; !ok || there.Next < m.Next {
				marks[k], s.dirty = m, true
			}
		}
	}
	s.marks, s.seq = marks, max(s.seq, seq)
	return maps.Clone(marks), nil
}

// Claim takes, once, a generation above those of all instances before.
func (s *Store) Claim() {
	if s.generation > 0 {
		return
	}
	for _, m := range s.marks {
		s.generation = max(s.generation, m.Generation)
	}
	s.generation++
}

// Put puts marks in place of those of the same keys; Write brings them to the cache.
func (s *Store) Put(marks map[position.Key]position.Mark) {
	if s.marks == nil {
		s.marks = map[position.Key]position.Mark{}
	}
	for k, m := range marks {
		m.Generation, m.Instance = s.generation, s.instance
		m.Version = position.MarkVersion
		if !reflect.DeepEqual(s.marks[k], m) {
			s.marks[k], s.dirty = m, true
		}
	}
}

// Dirty tells whether Write has anything to write.
func (s *Store) Dirty() bool { return s.dirty }

// Write writes all marks, in one operation, if any of them has changed, unless a
// later instance has written its own: the error is then a *position.Stop.
func (s *Store) Write(ctx context.Context) error {
	if !s.dirty {
		return nil
	}
	there, seq, err := s.read(ctx)
	if err != nil {
		return err
	}
	for k, m := range there {
		if s.outranked(m) {
			return &position.Stop{
				Reason: fmt.Sprintf("another instance of relay %q has taken over: its marks for %s in the cache have generation %d (instance %s), those of this instance %s generation %d", s.relay, k.Source, m.Generation, m.Instance, s.instance, s.generation),
				Cure:   "run one instance; if both are wanted, give the input of each a `relay` name of its own",
			}
		}
	}
	doc := document{Version: version, Seq: max(s.seq, seq) + 1, Marks: make(map[string]json.RawMessage, len(s.marks))}
	samples := max(1, samplesAtMost/max(1, len(s.marks)))
	for k, m := range s.marks {
		m.Pairs = m.Pairs[max(0, len(m.Pairs)-samples):]
		doc.Marks[k.String()] = m.Encode()
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	key := Keys(s.relay)[doc.Seq%2]
	err = s.use(ctx, func(ctx context.Context, c service.Cache) error { return c.Set(ctx, key, text, nil) })
	if err != nil {
		return fmt.Errorf("writing marks to %s: %w", key, err)
	}
	s.seq, s.dirty = doc.Seq, false
	return nil
}

// outranked tells whether a mark is of a later instance; of two that began at the
// same moment one gives way.
func (s *Store) outranked(m position.Mark) bool {
	return m.Generation > s.generation || (m.Generation == s.generation && m.Instance > s.instance)
}

// read returns the later one of the two documents; one that was torn does not
// count beside another. None at all are no marks.
func (s *Store) read(ctx context.Context) (map[position.Key]position.Mark, int64, error) {
	latest := document{Seq: -1}
	var torn error
	for _, key := range Keys(s.relay) {
		var text []byte
		err := s.use(ctx, func(ctx context.Context, c service.Cache) (err error) {
			text, err = c.Get(ctx, key)
			return err
		})
		if errors.Is(err, service.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading marks from %s: %w", key, err)
		}
		var doc document
		if err := json.Unmarshal(text, &doc); err != nil {
			torn = s.unreadable(fmt.Sprintf("marks in the cache, key %s, are not readable: %v", key, err))
			continue
		}
		if doc.Version != version {
			return nil, 0, s.unreadable(fmt.Sprintf("marks in the cache, key %s, have version %d and this release reads version %d: run the release that wrote them, or a newer one", key, doc.Version, version))
		}
		if doc.Seq > latest.Seq {
			latest = doc
		}
	}
	if latest.Seq < 0 {
		return map[position.Key]position.Mark{}, 0, torn
	}
	marks := make(map[position.Key]position.Mark, len(latest.Marks))
	for text, value := range latest.Marks {
		k, err := position.ParseKey(text)
		if err != nil {
			return nil, 0, s.unreadable(err.Error())
		}
		if marks[k], err = position.DecodeMark(value); err != nil {
			return nil, 0, s.unreadable(fmt.Sprintf("marks in the cache, %s: %v", k, err))
		}
	}
	return marks, latest.Seq, nil
}

func (s *Store) unreadable(reason string) error {
	keys := Keys(s.relay)
	return &position.Stop{Reason: reason, Cure: fmt.Sprintf("if the position is to be given up, remove the keys %s and %s from the cache", keys[0], keys[1])}
}

// useTimeout bounds one use of the cache; the next attempt tries again.
const useTimeout = 5 * time.Second

// use calls fn with the cache and returns the error of either.
func (s *Store) use(ctx context.Context, fn func(context.Context, service.Cache) error) error {
	ctx, cancel := context.WithTimeout(ctx, useTimeout)
	defer cancel()
	var inner error
	err := s.access(ctx, func(c service.Cache) { inner = fn(ctx, c) })
	return errors.Join(err, inner)
}
