package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"

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

	mu     sync.Mutex // processors belong to one thread
	failed int64
}

// Failed is how many messages a processor failed on: the relay would not have
// written them.
func (p *Pipeline) Failed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
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
}

func (e *expecting) convert(ctx context.Context, records []*kgo.Record) ([]Expected, error) {
	if e.pipeline != nil {
		return e.process(ctx, records)
	}
	out := make([]Expected, 0, len(records))
	pieces := make([]Piece, 0, len(records))
	for _, r := range records {
		x := Expected{Offset: r.Offset}
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
	for i, r := range records {
		out[i].Offset = r.Offset
		sources[i] = record.Source{Record: r, Span: i}
		if !e.loops(r) {
			batch = append(batch, record.NewMessage(ctx, &sources[i], e.rules.Standard, e.pipeline.Source))
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
			if m.GetError() != nil {
				e.pipeline.failed++
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

// finding turns target records into what they claim to be.
type finding struct {
	header     string
	timestamps bool
	// sources are the indexes of Work.Sources.
	sources map[position.TP]int
	// same is the source partition that a record without origin may stand for,
	// by its offset; -1 if there is none.
	same int
}

func (f *finding) convert(_ context.Context, records []*kgo.Record) ([]Found, error) {
	out := make([]Found, len(records))
	for i, r := range records {
		out[i] = f.one(r)
	}
	return out, nil
}

func (f *finding) one(r *kgo.Record) Found {
	own := -1
	x := Found{Offset: r.Offset, Source: f.same, SourceOffset: r.Offset, Guessed: true}
	if f.header != "" {
		own = record.OriginAt(r, f.header)
	}
	if own >= 0 {
		o, err := record.ParseOrigin(r.Headers[own].Value)
		if s, ok := f.sources[position.TP{Topic: o.Topic, Partition: o.Partition}]; err == nil && ok {
			x.Source, x.SourceOffset, x.Guessed = s, o.Offset, false
		} else {
			own = -1
		}
	}
	x.Hash = record.Hash(r, own, f.timestamps)
	return x
}
