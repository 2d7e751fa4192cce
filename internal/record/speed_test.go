package record

import (
	"context"
	"testing"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kept makes the compiler make what it would leave out.
var kept *service.Message

// How many allocations a record's conversion takes, at most. Benthos' message
// alone takes three.
func TestConversionAllocates(t *testing.T) {
	s := source()
	ctx := context.Background()
	keep := func(m *service.Message) { kept = m }
	hs := make([]kgo.RecordHeader, 0, 8)
	full, none := *s, *s
	full.Batch, none.Batch = &Batch{Standard: true}, &Batch{}
	m := NewMessage(ctx, &full)
	origin := make([]byte, 0, 100)
	for name, c := range map[string]struct {
		most float64
		do   func()
	}{
		"message with standard metadata": {14, func() { keep(NewMessage(ctx, &full)) }},
		"message with no metadata":       {5, func() { keep(NewMessage(ctx, &none)) }},
		"carrier of a batch":             {3, func() { keep(NewCarrier(ctx)) }},
		"target record": {0, func() {
			var r kgo.Record
			if _, err := (Rules{Standard: true}).Fill(&r, m, s.Record, hs[:0]); err != nil {
				t.Fatal(err)
			}
		}},
		"target record without a message": {0, func() {
			var r kgo.Record
			Rules{}.FillBare(&r, s.Record, hs[:0])
		}},
		"fingerprint": {0, func() { Fingerprint(s.Record) }},
		"origin":      {0, func() { AppendOffsets(AppendPrefix(origin[:0], "relay", "topic", 3), 1_000_000, 999_999) }},
	} {
		if got := testing.AllocsPerRun(100, c.do); got > c.most {
			t.Errorf("%s: %.0f allocations", name, got)
		}
	}
}

func BenchmarkConversion(b *testing.B) {
	s := source()
	ctx := context.Background()
	for name, do := range map[string]func(){
		"standard":    func() { s.Batch.Standard = true; kept = NewMessage(ctx, s) },
		"none":        func() { s.Batch.Standard = false; kept = NewMessage(ctx, s) },
		"carrier":     func() { kept = NewCarrier(ctx) },
		"fingerprint": func() { Fingerprint(s.Record) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
	b.Run("origin", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 100)
		for b.Loop() {
			AppendOffsetsAfter(AppendPrefix(buf[:0], "relay", "topic", 3), 1_000_000, []byte("999999"))
		}
	})
}

// Both ways of writing an origin's offsets give the same.
func TestAppendOffsetsAfter(t *testing.T) {
	for _, o := range []int64{0, 9, 10, 1 << 40} {
		if a, b := string(AppendOffsets(nil, o, 7)), string(AppendOffsetsAfter(nil, o, []byte("7"))); a != b {
			t.Errorf("%q, %q", a, b)
		}
	}
}

// Only the very message that was made passes for a carrier.
func TestIsCarrier(t *testing.T) {
	one := func() service.MessageBatch { return service.MessageBatch{NewCarrier(context.Background())} }
	if !IsCarrier(one()) {
		t.Error("as it was made")
	}
	equal := service.MessageBatch{service.NewMessage(append([]byte(nil), carried...))}
	changed, failed := one(), one()
	changed[0].SetBytes([]byte("x"))
	named := one()
	named[0].MetaSetMut("x", "y")
	failed[0].SetError(ErrStop)
	for name, b := range map[string]service.MessageBatch{"equal": equal, "changed": changed, "with metadata": named, "failed": failed, "none": nil, "two": append(one(), one()...)} {
		if IsCarrier(b) {
			t.Errorf("%s passes", name)
		}
	}
}
