package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Pipeline is what stands between input and output.
type Pipeline struct {
	Processors []*service.OwnedProcessor
	// Source is what the metadata kafka_source says.
	Source string

	// DropsFailed: messages that a processor failed on are left out, and the
	// relay goes on.
	DropsFailed bool
	// DeadLetters: they are kept elsewhere, and so are those that a filter would
	// have the relay stop at.
	DeadLetters bool

	mu sync.Mutex // processors belong to one thread
}

// expecting turns source records into what the target should hold.
type expecting struct {
	route      relay.Route
	partitions int // of the target topic
	timestamps bool
	rules      record.Rules
	header     string // origin header
	relayID    string
	pipeline   *Pipeline
	since      time.Time
}

func (e *expecting) convert(ctx context.Context, records []*kgo.Record) ([]Expected, error) {
	if e.pipeline != nil {
		return e.process(ctx, records)
	}
	out := make([]Expected, 0, len(records))
	pieces := make([]Piece, 0, len(records))
	for _, r := range records {
		x := Expected{Offset: r.Offset, Optional: r.Timestamp.Before(e.since)}
		if !e.loops(r) {
			pieces = append(pieces, e.piece(e.rules.Unchanged(r), r))
			x.Pieces = pieces[len(pieces)-1 : len(pieces) : len(pieces)]
		}
		out = append(out, x)
	}
	return out, nil
}

// loops tells whether the relay leaves a record out since it came from it.
func (e *expecting) loops(r *kgo.Record) bool {
	return e.header != "" && len(r.Headers) > 0 && record.PassedThrough(r, e.header, e.relayID)
}

func (e *expecting) piece(want, src *kgo.Record) Piece {
	p := Piece{Hash: record.Hash(want, -1, e.timestamps), Partition: src.Partition}
	switch e.route.Mode {
	case relay.FixedPartition:
		p.Partition = e.route.Partition
	case relay.ByKey:
		p.Partition = int32(relay.PartitionByKey(want, src.Partition, e.partitions))
	}
	return p
}

// process runs records through the pipeline as the relay does.
func (e *expecting) process(ctx context.Context, records []*kgo.Record) ([]Expected, error) {
	e.pipeline.mu.Lock()
	defer e.pipeline.mu.Unlock()
	out := make([]Expected, len(records))
	sources := make([]record.Source, len(records))
	batch := make(service.MessageBatch, 0, len(records))
	shared := &record.Batch{Standard: e.rules.Standard, Cluster: e.pipeline.Source}
	for i, r := range records {
		out[i].Offset, out[i].Optional = r.Offset, r.Timestamp.Before(e.since)
		sources[i] = record.Source{Record: r, Span: i, Batch: shared}
		if !e.loops(r) {
			batch = append(batch, record.NewMessage(ctx, &sources[i]))
		}
	}
	batches := []service.MessageBatch{batch}
	for _, proc := range e.pipeline.Processors {
		var next []service.MessageBatch
		for _, b := range batches {
			if len(b) == 0 {
				continue
			}
			made, err := proc.ProcessBatch(ctx, b)
			if err != nil {
				return nil, fmt.Errorf("running the pipeline's processors: %w", err)
			}
			next = append(next, made...)
		}
		batches = next
	}
	for _, b := range batches {
		for _, m := range b {
			src := record.SourceOf(m)
			if src == nil {
				return nil, errors.New("a processor deleted all metadata of a message, or made a new one: what it was made from cannot be told any more, and the relay would stop")
			}
			if err := m.GetError(); err != nil {
				out[src.Span].Failed = out[src.Span].Failed || !e.pipeline.DropsFailed || (!e.pipeline.DeadLetters && errors.Is(err, record.ErrStop))
				continue
			}
			var want kgo.Record
			if _, err := e.rules.Fill(&want, m, src.Record, nil); err != nil {
				return nil, err
			}
			x := &out[src.Span]
			x.Pieces = append(x.Pieces, e.piece(&want, src.Record))
		}
	}
	return out, nil
}

// gone is the news that retention came by.
func (e *expecting) gone(_, to int64) Expected { return Expected{Offset: to - 1, Gone: true} }

// finding turns target records into what they claim to be.
type finding struct {
	header     string
	relayID    string
	timestamps bool
	// sources are the indexes of Work.Sources.
	sources map[position.TP]int
	// same is the source partition that a record without origin may stand for,
	// by its offset; -1 if there is none.
	same int
}

func (f *finding) gone(from, to int64) Found { return Found{Offset: to - 1, Gone: to - from} }

func (f *finding) convert(_ context.Context, records []*kgo.Record) ([]Found, error) {
	out := make([]Found, len(records))
	for i, r := range records {
		out[i] = f.one(r)
	}
	return out, nil
}

// one finds out what a record may have been made from. Its last origin counts
// if this relay wrote it. Otherwise it may be a copy of another tool at the same
// offset, which has copied an earlier relay's origin along, or a record that
// this relay wrote under another relay_id.
func (f *finding) one(r *kgo.Record) Found {
	x := Found{Offset: r.Offset}
	origin, ours := f.origin(r)
	if ours {
		x.Claim = *origin
		return x
	}
	x.Claim = Claim{Source: -1}
	if f.same >= 0 {
		x.Claim = Claim{Source: f.same, SourceOffset: r.Offset, Hash: record.Hash(r, -1, f.timestamps), Guessed: true}
		x.Else = origin
	} else if origin != nil {
		x.Claim = *origin
	}
	return x
}

// origin is what the last origin header claims, nil without a credible one, and
// whether this relay wrote it.
func (f *finding) origin(r *kgo.Record) (*Claim, bool) {
	if f.header == "" {
		return nil, false
	}
	own := record.OriginAt(r, f.header)
	if own < 0 {
		return nil, false
	}
	o, err := record.ParseOrigin(r.Headers[own].Value)
	s, ok := f.sources[position.TP{Topic: o.Topic, Partition: o.Partition}]
	if err != nil || !ok {
		return nil, false
	}
	return &Claim{Source: s, SourceOffset: o.Offset, Hash: record.Hash(r, own, f.timestamps)}, o.RelayID == f.relayID
}
