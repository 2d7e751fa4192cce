// Package metrics holds every metric's name, once. Names are API: they are
// those kaf-relay's users have on their dashboards. Values are gathered per
// batch, since a labelled call costs more than relaying a record.
package metrics

import "github.com/redpanda-data/benthos/v4/public/service"

const (
	filtered = "kafka_relay_messages_filtered_total"
	blocks   = "kafka_relay_target_inlet_blocks_total"
)

// Values of the label `filter` of messages_filtered_total that are not the
// name of a filter.
const (
	ByLoop    = "loop"     // the record has passed through this relay before
	ByOnError = "on_error" // left out by on_error: drop
)

// Output are the metrics the output keeps.
type Output struct {
	filtered *service.MetricCounter
}

// NewOutput registers them.
func NewOutput(m *service.Metrics) *Output {
	return &Output{filtered: m.NewCounter(filtered, "filter")}
}

// Dropped counts records that on_error: drop left out.
func (o *Output) Dropped(n int64) { o.filtered.Incr(n, ByOnError) }

// Input are the metrics the input keeps.
type Input struct {
	filtered *service.MetricCounter
	blocks   *service.MetricCounter
}

// NewInput registers them.
func NewInput(m *service.Metrics) *Input {
	return &Input{filtered: m.NewCounter(filtered, "filter"), blocks: m.NewCounter(blocks)}
}

// Loops counts records left out because they passed through this relay before.
func (i *Input) Loops(n int64) { i.filtered.Incr(n, ByLoop) }

// Blocked counts the times a full window held the input back.
func (i *Input) Blocked(n int64) { i.blocks.Incr(n) }
