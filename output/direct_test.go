package output

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// preparing is a session that converts batches and writes none.
func preparing(t testing.TB, direct bool) *session {
	t.Helper()
	seat := relay.Join(service.MockResources(), t.Name()).AnnounceInput(false)
	st := &relay.Standing{RelayID: "r", OriginHeader: "_origin", Slots: []position.TP{{Topic: "t"}}, Ends: []int64{0},
		Parts: []relay.PartStanding{{Part: relay.Part{Source: position.TP{Topic: "t"}, Slots: 1}}}}
	g := relay.NewGeneration(seat, nil, relay.Plan{
		Standing: st, Starts: []position.PartStart{{Slots: []int{0}}}, WindowBytes: 1 << 30, Direct: direct, Standard: true,
	})
	out := &Output{name: "output x", metrics: metrics.NewOutput(service.MockResources().Metrics()), engine: metrics.NewEngineOutput(service.MockResources().Metrics()), log: service.MockResources().Logger()}
	out.conf.producer = kafka.Producer{MaxMessageBytes: 1 << 20}
	return &session{out: out, gen: g, rules: record.Rules{Standard: true, TimestampHeader: "_t"}, topics: map[string]kafka.Topic{"t": {}}}
}

// batchFrom makes a batch as the input does.
func batchFrom(t testing.TB, s *session, records []*kgo.Record) (*relay.Ticket, service.MessageBatch) {
	t.Helper()
	ticket, err := s.gen.Issue(context.Background(), relay.Load{Records: len(records)}, []relay.Span{{Next: records[len(records)-1].Offset + 1}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := relay.WithTicket(context.Background(), ticket)
	shared := &record.Batch{Ticket: ticket.Number(), Standard: true}
	sources := make([]record.Source, len(records))
	for i, r := range records {
		sources[i] = record.Source{Record: r, Batch: shared}
	}
	if s.gen.Direct {
		ticket.Carry(sources)
		return ticket, service.MessageBatch{record.NewCarrier(ctx)}
	}
	batch := make(service.MessageBatch, len(records))
	for i := range sources {
		batch[i] = record.NewMessage(ctx, &sources[i])
	}
	return ticket, batch
}

func readRecords(n int) []*kgo.Record {
	out := make([]*kgo.Record, n)
	for i := range out {
		out[i] = &kgo.Record{Topic: "t", Offset: int64(95 + i), Key: fmt.Appendf(nil, "key-%d", i), Value: fmt.Appendf(nil, "value-%d", i), Timestamp: time.UnixMilli(int64(i))}
		switch i % 5 {
		case 1:
			out[i].Headers = []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a"}, {Key: "b", Value: []byte{}}}
		case 2:
			out[i].Key, out[i].Value = nil, nil
		case 3:
			out[i].Key, out[i].Value = []byte{}, []byte{}
			out[i].Offset += 1000 // a gap
		case 4:
			out[i].Headers = []kgo.RecordHeader{{Key: "_origin", Value: []byte("before/t/0/1/0")}, {Key: "kafka_key", Value: []byte("x")}}
		}
	}
	for i := 1; i < n; i++ {
		out[i].Offset = max(out[i].Offset, out[i-1].Offset+1)
	}
	return out
}

// Records without messages and full messages that nothing has changed become the
// same records.
func TestDirectWritesTheSame(t *testing.T) {
	var got [2][]kgo.Record
	for i, direct := range []bool{false, true} {
		s := preparing(t, direct)
		for range 2 { // the second batch's first record names one before
			ticket, batch := batchFrom(t, s, readRecords(50))
			p, err := s.prepare(ticket, batch)
			if err != nil || p.bad != nil {
				t.Fatal(err, p)
			}
			if err := p.finish(s.gen); err != nil {
				t.Fatal(err)
			}
			got[i] = append(got[i], p.records...)
		}
	}
	if diff := cmp.Diff(got[0], got[1], cmpopts.IgnoreFields(kgo.Record{}, "Attrs"), cmpopts.IgnoreUnexported(kgo.Record{})); diff != "" {
		t.Fatal(diff)
	}
	for i, r := range got[1] {
		o, ok := record.LastOrigin(&r, "_origin")
		want := readRecords(50)[i%50].Offset
		if !ok || o.RelayID != "r" || o.Offset != want || (i%50 > 0 && o.Prev != readRecords(50)[i%50-1].Offset) {
			t.Fatalf("record %d: %+v", i, o)
		}
	}
}

// What did not come as it was read is refused, whatever it is.
func TestDirectRefuses(t *testing.T) {
	for name, change := range map[string]func(service.MessageBatch) service.MessageBatch{
		"less":    func(b service.MessageBatch) service.MessageBatch { return b[:0] },
		"more":    func(b service.MessageBatch) service.MessageBatch { return append(b, b[0]) },
		"changed": func(b service.MessageBatch) service.MessageBatch { b[0].SetBytes([]byte("other")); return b },
		"failed":  func(b service.MessageBatch) service.MessageBatch { b[0].SetError(errors.New("x")); return b },
		"an equal copy": func(b service.MessageBatch) service.MessageBatch {
			v, _ := b[0].AsBytes()
			b[0].SetBytes(append([]byte(nil), v...))
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := preparing(t, true)
			ticket, batch := batchFrom(t, s, readRecords(5))
			if p, err := s.prepare(ticket, change(batch)); !errors.Is(err, relay.ErrNotDirect) {
				t.Fatalf("%+v, %v", p, err)
			}
		})
	}
}

// A failed message is refused as ever; one that a filter wants the relay to stop
// at is not dropped.
func TestDirectFailedMessage(t *testing.T) {
	for _, c := range []struct {
		err  error
		drop bool
		bad  bool
	}{{errors.New("x"), false, true}, {errors.New("x"), true, false}, {fmt.Errorf("x (%w)", record.ErrStop), true, true}} {
		s := preparing(t, true)
		if c.drop {
			s.out.conf.onError = onErrorDrop
		}
		ticket, batch := batchFrom(t, s, readRecords(5))
		ticket.Carried()[3].Failed = &record.Failure{Err: c.err, Component: "kafka_failover_filter x"}
		p, err := s.prepare(ticket, batch)
		if err != nil || (p.bad != nil) != c.bad || (c.bad && (len(p.records) != 3 || !strings.Contains(p.bad.Error(), "offset"))) || (!c.bad && len(p.records) != 4) || (c.bad && p.bad.component != "kafka_failover_filter x") {
			t.Errorf("%+v: %v, %+v", c, err, p)
		}
	}
}

// The dead letter of a record of which a piece is left is written before that
// piece: alone it would prove the whole record.
func TestDeadLetterBeforePieces(t *testing.T) {
	s := preparing(t, false)
	s.out.conf.onError, s.out.conf.deadLetterTopic = onErrorDeadLetter, "dead"
	ticket, batch := batchFrom(t, s, readRecords(5))
	piece := batch[2].Copy()
	piece.SetError(errors.New("x"))
	batch = append(batch[:3:3], append(service.MessageBatch{piece}, batch[3:]...)...)
	p, err := s.prepare(ticket, batch)
	if err != nil || len(p.records) != 5 || len(p.dead) != 1 || p.dead[0].before != 2 {
		t.Fatalf("%v, %d records, %+v", err, len(p.records), p.dead)
	}
}

// Preparing a batch allocates its few slices, and nothing per record.
func TestPrepareAllocates(t *testing.T) {
	const n = 500
	for _, direct := range []bool{true, false} {
		s := preparing(t, direct)
		records := make([]*kgo.Record, n)
		for i := range records {
			records[i] = &kgo.Record{Topic: "t", Offset: int64(i), Key: []byte("key"), Value: []byte("value"), Headers: []kgo.RecordHeader{{Key: "n", Value: []byte("1")}}}
		}
		ticket, batch := batchFrom(t, s, records)
		s.rules.TimestampHeader = ""
		got := testing.AllocsPerRun(20, func() {
			if _, err := s.prepare(ticket, batch); err != nil {
				t.Fatal(err)
			}
		})
		if got > 20 {
			t.Errorf("direct %v: %.0f allocations for %d records", direct, got, n)
		}
	}
}

func BenchmarkPrepare(b *testing.B) {
	for _, direct := range []bool{true, false} {
		b.Run(fmt.Sprintf("direct=%v", direct), func(b *testing.B) {
			s := preparing(b, direct)
			s.rules.TimestampHeader = ""
			records := make([]*kgo.Record, 500)
			for i := range records {
				records[i] = &kgo.Record{Topic: "t", Offset: int64(1_000_000 + i), Key: []byte("key-1"), Value: make([]byte, 200), Headers: []kgo.RecordHeader{{Key: "n", Value: []byte("1")}}}
			}
			ticket, batch := batchFrom(b, s, records)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.prepare(ticket, batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
		})
	}
}
