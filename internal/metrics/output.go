package metrics

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// Values of the label `error` of the target's metrics.
const (
	clientCreationFailed = "client_creation_failed"
	tlsConfigError       = "tls_config_error"
	produceFailed        = "produce_failed"
	retriesExhausted     = "produce_retries_exhausted"
)

// Output are the metrics the output keeps.
type Output struct {
	filtered, relayed, errors, kafkaErrors, retries *service.MetricCounter
	markAge                                         *service.MetricGauge
	size, duration                                  *histogram
	marked                                          atomic.Pointer[time.Time]
}

// NewOutput registers them.
func NewOutput(m *service.Metrics) *Output {
	o := &Output{
		filtered: filtered.counter(m), relayed: relayed.counter(m), errors: targetErrors.counter(m),
		kafkaErrors: targetKafka.counter(m), retries: flushRetries.counter(m), markAge: markAge.gauge(m),
		size: flushSize.histogram(m), duration: flushTime.histogram(m),
	}
	o.Dropped(0)
	o.DeadLettered(0)
	o.Retried(0)
	for _, e := range []string{connectionFailed, clientCreationFailed} {
		o.errors.Incr(0, e)
	}
	for _, e := range []string{tlsConfigError, produceFailed, retriesExhausted} {
		o.kafkaErrors.Incr(0, e)
	}
	return o
}

// ByPipeline counts records that a processor took out.
func (o *Output) ByPipeline(n int64) { o.filtered.Incr(n, ByPipeline) }

// Dropped counts records that on_error: drop left out.
func (o *Output) Dropped(n int64) { o.filtered.Incr(n, ByOnError) }

// DeadLettered counts records that went to the dead letter topic.
func (o *Output) DeadLettered(n int64) { o.filtered.Incr(n, ByDeadLetter) }

// Relayed counts records written and acknowledged.
func (o *Output) Relayed(p Path, n int64) { o.relayed.Incr(n, p[:]...) }

// Flushed notes a batch that was written.
func (o *Output) Flushed(records int, took time.Duration) {
	o.size.observe(float64(records))
	o.duration.observe(took.Seconds())
}

// Retried counts writes that were tried again.
func (o *Output) Retried(n int64) { o.retries.Incr(n) }

// Refused counts a batch that the target refused.
func (o *Output) Refused() { o.kafkaErrors.Incr(1, produceFailed) }

// GivenUp counts a record that the target refused alone as well.
func (o *Output) GivenUp() { o.kafkaErrors.Incr(1, retriesExhausted) }

// NoClient counts a client that could not be made.
func (o *Output) NoClient() { o.errors.Incr(1, clientCreationFailed) }

// ConnectionFailed counts a connection to the target that could not be opened;
// inTLS says that it failed in the TLS handshake.
func (o *Output) ConnectionFailed(err error, inTLS bool) {
	switch {
	case errors.Is(err, context.Canceled): // whoever asked has left
	case inTLS:
		o.kafkaErrors.Incr(1, tlsConfigError)
	default:
		o.errors.Incr(1, connectionFailed)
	}
}

// Marked notes that marks were acknowledged.
func (o *Output) Marked() {
	now := time.Now()
	o.marked.Store(&now)
}

// Tick passes on what was gathered, and what ages.
func (o *Output) Tick() {
	o.size.flush()
	o.duration.flush()
	if at := o.marked.Load(); at != nil {
		o.markAge.SetFloat64(time.Since(*at).Seconds())
	}
}
