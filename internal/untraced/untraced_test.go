package untraced

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"go.opentelemetry.io/otel/trace"

	_ "github.com/redpanda-data/connect/v4/public/components/pure"
)

// A stream with a buffer and processors runs on this tracer: wherever the engine
// looks at a span it finds one.
func TestEngineRuns(t *testing.T) {
	env := service.GlobalEnvironment().Clone()
	if err := env.RegisterOtelTracerProvider("none", service.NewConfigSpec(), func(*service.ParsedConfig) (trace.TracerProvider, error) {
		return Provider{}, nil
	}); err != nil {
		t.Fatal(err)
	}
	b := env.NewStreamBuilder()
	if err := b.SetYAML(`
input: { generate: { count: 6, interval: "", mapping: 'root.n = count("n")' } }
buffer: { memory: { batch_policy: { enabled: true, count: 2, period: 10ms } } }
pipeline:
  processors:
    - branch: { processors: [ { mapping: root = this } ], result_map: root.m = this }
    - workflow: { meta_path: meta.w, branches: { a: { processors: [ { mapping: root = this } ], result_map: root.w = this } } }
    - parallel: { processors: [ { log: { message: x, level: DEBUG } } ] }
    - mapping: root.span = tracing_span().or("none").type()
output: { drop: {} }
logger: { level: "OFF" }
`); err != nil {
		t.Fatal(err)
	}
	var got atomic.Int64
	if err := b.AddConsumerFunc(func(context.Context, *service.Message) error { got.Add(1); return nil }); err != nil {
		t.Fatal(err)
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Run(ctx); err != nil || got.Load() != 6 {
		t.Fatalf("%d messages, %v", got.Load(), err)
	}
}

func TestStart(t *testing.T) {
	tr := Provider{}.Tracer("x")
	for step, want := range map[string]bool{"output_kafka_failover": false, "memory": true} {
		ctx, span := tr.Start(With(context.Background()), step)
		if (span != nil) != want || trace.SpanFromContext(ctx).IsRecording() {
			t.Errorf("%s: %v", step, span)
		}
	}
	if got := testing.AllocsPerRun(10, func() { tr.Start(context.Background(), "input_kafka_failover") }); got != 0 {
		t.Error(fmt.Sprint(got, " allocations"))
	}
}
