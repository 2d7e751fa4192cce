package metrics

import "github.com/redpanda-data/benthos/v4/public/service"

// Values of the label `filter` of messages_filtered_total that are not the
// name of a filter.
const (
	ByLoop    = "loop"     // the record has passed through this relay before
	ByOnError = "on_error" // left out by on_error: drop
	// ByDeadLetter counts what on_error: dead_letter sent to the dead letter topic.
	ByDeadLetter = "dead_letter"
	// ByPipeline counts what processors other than kafka_failover_filter took
	// out.
	ByPipeline = "pipeline"
)

// Reserved are the names that a filter may not have.
func Reserved() []string { return []string{ByLoop, ByOnError, ByDeadLetter, ByPipeline} }

// Filter are the metrics of one kafka_failover_filter.
type Filter struct {
	filtered *service.MetricCounter
	name     string
}

// NewFilter registers them.
func NewFilter(m *service.Metrics, name string) *Filter {
	f := &Filter{filtered.counter(m), name}
	f.Filtered(0)
	return f
}

// Filtered counts records that the filter took out.
func (f *Filter) Filtered(n int64) { f.filtered.Incr(n, f.name) }
