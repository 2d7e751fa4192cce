package output

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// prepared is a batch made ready outside its turn: its records with everything
// but what depends on the batches before it.
type prepared struct {
	ticket  *relay.Ticket
	records []kgo.Record
	sources []*record.Source // of each record
	touch   []int32          // of each record: index into touches
	touches []relay.Touch
	targets []position.TP // of each touch: the target partition
	places  []place       // of each record, where they are routed by content
	// first holds, per span, the index of the record whose predecessor is in
	// an earlier batch, -1 if the span has none; last its last source offset.
	first []int
	last  []int64
	// bad is the message the batch ends before, if on_error: stop met one.
	bad *badMessage
	// dead are the messages for the dead letter topic.
	dead []*badMessage
}

// fromTurn marks a predecessor that only the turn knows.
const fromTurn = -2

// badMessage is a message that must not be relayed as it is: a processor
// failed on it, or it can never be written.
type badMessage struct {
	source *record.Source
	err    error
	// component it failed in; empty: this output.
	component string
	// before is the index of the first record of the batch that comes behind it.
	before int
}

func (b *badMessage) Error() string {
	return fmt.Sprintf("source record %s offset %d: %v", tpOf(b.source), b.source.Record.Offset, b.err)
}

func (b *badMessage) Unwrap() error { return b.err }

func tpOf(s *record.Source) position.TP {
	return position.TP{Topic: s.Record.Topic, Partition: s.Record.Partition}
}

// prepare converts a batch, up to the first message that must not be relayed.
// An error means that the pipeline lost what ties messages to their source
// records, unless it is an askError.
func (s *session) prepare(t *relay.Ticket, batch service.MessageBatch) (*prepared, error) {
	p := &prepared{ticket: t, first: make([]int, len(t.Spans())), last: make([]int64, len(t.Spans()))}
	for i := range p.first {
		p.first[i], p.last[i] = -1, -1
	}
	n := len(batch)
	if s.gen.Direct {
		if !record.IsCarrier(batch) || s.out.hasTarget() {
			return nil, fmt.Errorf("a batch from source partition %s did not reach %s as it was read: %w", s.gen.Parts[t.Spans()[0].Part].Source, s.out.name, relay.ErrNotDirect)
		}
		n, batch = len(t.Carried()), nil
		s.out.engine.Sent(n - 1)
	}
	kept := batch[:0:len(batch)] // without messages, none
	headers := 0
	byContent := s.out.hasTarget()
	p.sources = make([]*record.Source, 0, n)
	arrived := 0
	var before *record.Source
	for i := range n {
		m, src, err := s.item(t, batch, i)
		if err != nil {
			return nil, err
		}
		if before == nil || before.Record != src.Record {
			arrived++
		}
		before = src
		var at place
		err = s.refuses(t, m, src)
		if err == nil && byContent {
			at, err = s.byContent(m, s.part(t, src), src)
		}
		if err != nil {
			if ask := (askError{}); errors.As(err, &ask) || isStop(err) {
				return nil, err // the record is not to blame
			}
			bad := &badMessage{source: src, err: err, before: len(p.sources), component: componentOf(m, src)}
			if s.stopsAt(err) {
				p.bad = bad
				// Pieces of the same record before it go with it: alone they
				// would prove the whole record.
				for n := len(p.sources); n > 0 && p.sources[n-1].Record == src.Record; n-- {
					kept, p.sources = kept[:n-1], p.sources[:n-1]
				}
				break
			}
			p.leaveOut(s.out, bad)
			continue
		}
		if m != nil {
			kept = append(kept, m)
		}
		p.sources = append(p.sources, src)
		if byContent {
			p.places = append(p.places, at)
		}
		headers += len(src.Record.Headers) + 2
	}
	if missing := t.Missing(arrived); missing > 0 && p.bad == nil {
		s.out.metrics.ByPipeline(missing)
	}
	prevs, err := p.link()
	if err != nil {
		return nil, err
	}
	return p, s.fill(p, kept, prevs, headers)
}

// stopsAt tells whether the relay is to stop at a message with this error. What
// a filter says it is to stop at is never dropped; as a dead letter it is kept.
func (s *session) stopsAt(err error) bool {
	switch s.out.conf.onError {
	case onErrorDeadLetter:
		return false
	case onErrorDrop:
		return errors.Is(err, record.ErrStop)
	}
	return true
}

// leaveOut goes on without a bad message. Pieces of one record make one dead
// letter.
func (p *prepared) leaveOut(o *Output, bad *badMessage) {
	if o.conf.onError != onErrorDeadLetter {
		o.noteLeftOut(bad)
		return
	}
	// The letter stands before what is left of the record: that alone would prove
	// the whole of it.
	for bad.before > 0 && p.sources[bad.before-1].Record == bad.source.Record {
		bad.before--
	}
	if n := len(p.dead); n == 0 || p.dead[n-1].source.Record != bad.source.Record {
		p.dead = append(p.dead, bad)
	}
}

// item is the message at an index of the batch, nil if the batch is carried, and
// what it was made from.
func (s *session) item(t *relay.Ticket, batch service.MessageBatch, i int) (*service.Message, *record.Source, error) {
	if s.gen.Direct {
		return nil, &t.Carried()[i], nil
	}
	src, err := s.sourceOf(t, batch[i])
	return batch[i], src, err
}

// sourceOf is what a message was made from.
func (s *session) sourceOf(t *relay.Ticket, m *service.Message) (*record.Source, error) {
	src := record.SourceOf(m)
	if src == nil {
		return nil, fmt.Errorf("a message reached %s without its origin: a processor deleted all metadata (`meta = deleted()`) or made a new message; keep the metadata %s", s.out.name, record.MetaOrigin)
	}
	if src.Batch.Ticket != t.Number() || src.Span >= len(t.Spans()) {
		return nil, fmt.Errorf("messages of several batches reached %s as one (source record %s offset %d among them): something merges batches (output batching, a buffer, group_by over batches); remove it, since order cannot be kept across it", s.out.name, tpOf(src), src.Record.Offset)
	}
	return src, nil
}

// content is what a message has to say: its value, or what failed on it.
func content(m *service.Message, src *record.Source) ([]byte, error) {
	switch {
	case m == nil && src.Failed != nil:
		return nil, fmt.Errorf("a processor failed on it: %w", src.Failed.Err)
	case m == nil:
		return src.Record.Value, nil
	}
	if err := m.GetError(); err != nil {
		return nil, fmt.Errorf("a processor failed on it: %w", err)
	}
	return m.AsBytes()
}

// refuses tells why a message must not be written.
func (s *session) refuses(t *relay.Ticket, m *service.Message, src *record.Source) error {
	b, err := content(m, src)
	if err != nil {
		return err
	}
	if len(s.condemned) > 0 {
		if err := s.condemned[tpOf(src)][src.Record.Offset]; err != nil {
			return err
		}
	}
	// A lower bound of what is written, whatever the pipeline has made of key and
	// headers; the producer checks exactly, and what it refuses is found the longer
	// way.
	size := len(b) + len(s.gen.OriginHeader) + len(s.gen.RelayID) + len(src.Record.Topic)
	if most := int(s.out.conf.producer.MaxMessageBytes); size > most {
		return fmt.Errorf("%w: it has at least %d bytes and max_message_bytes is %d; raise max_message_bytes, and max.message.bytes of target topic %q", errTooLarge, size, most, s.part(t, src).Route.Target)
	}
	return nil
}

func (s *session) part(t *relay.Ticket, src *record.Source) *relay.Part {
	return &s.gen.Parts[t.Spans()[src.Span].Part]
}

// link finds each record's predecessor within the batch: the record of the same
// source partition before it. Pieces of one record carry their own offset.
func (p *prepared) link() ([]int64, error) {
	prevs := make([]int64, len(p.sources))
	lastAt := make([]int, len(p.first))
	for i, src := range p.sources {
		off, span := src.Record.Offset, src.Span
		switch last := p.last[span]; {
		case p.first[span] < 0:
			p.first[span], prevs[i] = i, fromTurn
		case off == last:
			prevs[i], prevs[lastAt[span]] = off, off
		case off < last:
			return nil, fmt.Errorf("messages of source partition %s left the pipeline out of order, offset %d behind %d: remove the processor that reorders a batch (sort, group_by, parallel branches)", tpOf(src), off, last)
		default:
			prevs[i] = last
		}
		p.last[span], lastAt[span] = off, i
	}
	return prevs, nil
}

// fill builds the records, with one backing array for all headers.
func (s *session) fill(p *prepared, batch service.MessageBatch, prevs []int64, headers int) error {
	n := len(p.sources)
	p.records, p.touch = make([]kgo.Record, n), make([]int32, n)
	hs := make([]kgo.RecordHeader, 0, headers)
	var prefix, origins, digits []byte // digits: prevSource's offset
	var prevSource *record.Source
	touches := touchIndex{p: p}
	for i, src := range p.sources {
		part := s.part(p.ticket, src)
		r := &p.records[i]
		if s.gen.Direct {
			hs = s.rules.FillBare(r, src.Record, hs)
		} else {
			var err error
			if hs, err = s.rules.Fill(r, batch[i], src.Record, hs); err != nil {
				return fmt.Errorf("source record %s offset %d: %w", tpOf(src), src.Record.Offset, err)
			}
		}
		if s.gen.OriginHeader != "" {
			if prevSource == nil || prevSource.Span != src.Span {
				prefix = record.AppendPrefix(prefix[:0], s.gen.RelayID, part.Source.Topic, part.Source.Partition)
				digits = nil
				if origins == nil {
					origins = make([]byte, 0, n*(len(prefix)+24))
				}
			}
			var value []byte
			if prevs[i] != fromTurn {
				start := len(origins)
				origins = append(origins, prefix...)
				if digits != nil && prevs[i] == prevSource.Record.Offset {
					origins = record.AppendOffsetsAfter(origins, src.Record.Offset, digits)
				} else {
					origins = record.AppendOffsets(origins, src.Record.Offset, prevs[i])
				}
				value = origins[start:len(origins):len(origins)]
				digits = value[len(prefix) : len(prefix)+bytes.IndexByte(value[len(prefix):], '/')]
			}
			prevSource = src
			hs, r.Headers = appendOwn(hs, r.Headers, kgo.RecordHeader{Key: s.gen.OriginHeader, Value: value})
		}
		if p.places != nil {
			p.touch[i] = touches.of(src.Span, p.places[i].to(r), r)
		} else {
			p.touch[i] = touches.of(src.Span, s.byRoute(r, part, src), r)
		}
	}
	for span, i := range p.first {
		if i >= 0 && prevs[i] != fromTurn {
			p.first[span] = -1 // its pieces name themselves
		}
	}
	return nil
}

// appendOwn appends h to one record's headers, which are the tail of all.
func appendOwn(all, own []kgo.RecordHeader, h kgo.RecordHeader) ([]kgo.RecordHeader, []kgo.RecordHeader) {
	n := len(own)
	all = append(all, h)
	return all, all[len(all)-n-1 : len(all) : len(all)]
}

// touchIndex finds the index of a span and a target partition, the last one at
// once.
type touchIndex struct {
	p    *prepared
	last int32
	more map[touchKey]int32
}

// touchKey tells touches apart. Only partitions without a slot are known by name.
type touchKey struct {
	relay.Touch
	elsewhere position.TP
}

func (x *touchIndex) of(span, slot int, r *kgo.Record) int32 {
	t := touchKey{Touch: relay.Touch{Span: span, Slot: slot}}
	if slot < 0 {
		t.elsewhere = position.TP{Topic: r.Topic, Partition: r.Partition}
	} else if ts := x.p.touches; len(ts) > 0 && ts[x.last] == t.Touch {
		return x.last
	}
	if i, ok := x.more[t]; ok {
		x.last = i
		return i
	}
	if x.more == nil {
		x.more = map[touchKey]int32{}
	}
	x.last = int32(len(x.p.touches))
	x.more[t] = x.last
	x.p.touches = append(x.p.touches, t.Touch)
	x.p.targets = append(x.p.targets, position.TP{Topic: r.Topic, Partition: r.Partition})
	return x.last
}

// finish, within the turn, fills in what depended on the batches before.
func (p *prepared) finish(g *relay.Generation) error {
	for span, last := range p.last {
		if last < 0 {
			continue
		}
		prev := p.ticket.Prev(span, last)
		if g.Strict {
			if err := p.checkContiguous(span, prev); err != nil {
				return err
			}
		}
		i := p.first[span]
		if i < 0 || g.OriginHeader == "" {
			continue
		}
		r := &p.records[i]
		part := g.Parts[p.ticket.Spans()[span].Part]
		v := record.AppendPrefix(nil, g.RelayID, part.Source.Topic, part.Source.Partition)
		r.Headers[len(r.Headers)-1].Value = record.AppendOffsets(v, p.sources[i].Record.Offset, prev)
	}
	return nil
}

// checkContiguous refuses, before anything is written, a batch in which offsets
// are missing: where nothing else tells how far the target has come, every
// record must land at its own offset.
func (p *prepared) checkContiguous(span int, prev int64) error {
	for _, src := range p.sources {
		if src.Span != span {
			continue
		}
		if off := src.Record.Offset; off != prev+1 {
			return fmt.Errorf("with resume: watermark every record must keep its offset, but source partition %s goes from offset %d to %d here: a record was filtered or dropped, or the source has gaps; use resume: auto", tpOf(src), prev, off)
		}
		prev++
	}
	return nil
}
