package main

import (
	"github.com/redpanda-data/benthos/v4/public/service"
	"go.opentelemetry.io/otel/trace"

	"github.com/kafka-failover/kafka-failover/internal/untraced"
)

// The tracer `none` is the default; other tracers are as they were.
func init() {
	service.MustRegisterOtelTracerProvider("none",
		service.NewConfigSpec().Stable().Summary("Do not trace anything.").Field(service.NewObjectField("").Default(map[string]any{})),
		func(*service.ParsedConfig) (trace.TracerProvider, error) { return untraced.Provider{}, nil })
}
