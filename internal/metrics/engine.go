package metrics

import "github.com/redpanda-data/benthos/v4/public/service"

// Engine puts right what the engine counts where one message stands for all
// records of a batch: the same counters, with the same labels, get what is
// missing, so that they count records as ever.
type Engine struct {
	received, sent *service.MetricCounter
}

// NewEngineInput is for an input.
func NewEngineInput(m *service.Metrics) *Engine {
	return &Engine{received: m.NewCounter("input_received")}
}

// NewEngineProcessor is for a processor.
func NewEngineProcessor(m *service.Metrics) *Engine {
	return &Engine{received: m.NewCounter("processor_received"), sent: m.NewCounter("processor_sent")}
}

// NewEngineOutput is for an output.
func NewEngineOutput(m *service.Metrics) *Engine {
	return &Engine{sent: m.NewCounter("output_sent")}
}

// Received counts n messages more than the engine has received.
func (e *Engine) Received(n int) { e.received.Incr(int64(n)) }

// Sent counts n messages more than the engine has sent.
func (e *Engine) Sent(n int) { e.sent.Incr(int64(n)) }
