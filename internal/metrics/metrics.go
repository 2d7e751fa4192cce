// Package metrics holds every metric's name, once. Names are API: they are
// those kaf-relay's users have on their dashboards. Values are gathered per
// batch, since a labelled call costs more than relaying a record.
package metrics

import (
	"strconv"

	"github.com/redpanda-data/benthos/v4/public/service"
)

const (
	filtered = "kafka_relay_messages_filtered_total"
	lost     = "kafka_relay_messages_lost_total"
	blocks   = "kafka_relay_target_inlet_blocks_total"

	sourceErrors       = "kafka_relay_source_errors_total"
	sourceUnhealthy    = "kafka_relay_source_unhealthy_total"
	sourceHighWater    = "kafka_relay_source_highwatermark"
	sourceConnections  = "kafka_relay_source_connections_total"
	sourceLagExceeded  = "kafka_relay_source_lag_threshold_exceeded_total"
	sourceSwitches     = "kafka_relay_source_candidate_switches_total"
	sourceStateChanges = "kafka_relay_source_state_changes_total"
	sourceActive       = "kafka_relay_source_active"
)

// connectionFailed is a value of the label `error` of source_errors_total.
const connectionFailed = "connection_failed"

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

// Reserved tells whether a filter may not have a name.
func Reserved(name string) bool {
	return name == ByLoop || name == ByOnError || name == ByDeadLetter || name == ByPipeline
}

// Filter are the metrics of one kafka_failover_filter.
type Filter struct {
	filtered *service.MetricCounter
	name     string
}

// NewFilter registers them.
func NewFilter(m *service.Metrics, name string) *Filter {
	return &Filter{m.NewCounter(filtered, "filter"), name}
}

// Filtered counts records that the filter took out.
func (f *Filter) Filtered(n int64) { f.filtered.Incr(n, f.name) }

// Output are the metrics the output keeps.
type Output struct {
	filtered *service.MetricCounter
}

// NewOutput registers them.
func NewOutput(m *service.Metrics) *Output {
	return &Output{filtered: m.NewCounter(filtered, "filter")}
}

// ByPipeline counts records that a processor took out.
func (o *Output) ByPipeline(n int64) { o.filtered.Incr(n, ByPipeline) }

// Dropped counts records that on_error: drop left out.
func (o *Output) Dropped(n int64) { o.filtered.Incr(n, ByOnError) }

// DeadLettered counts records that went to the dead letter topic.
func (o *Output) DeadLettered(n int64) { o.filtered.Incr(n, ByDeadLetter) }

// Input are the metrics the input keeps.
type Input struct {
	filtered *service.MetricCounter
	lost     *service.MetricCounter
	blocks   *service.MetricCounter
}

// NewInput registers them.
func NewInput(m *service.Metrics) *Input {
	return &Input{filtered: m.NewCounter(filtered, "filter"), lost: m.NewCounter(lost, "source_topic", "source_partition"), blocks: m.NewCounter(blocks)}
}

// Lost counts records that on_gap: skip passed over.
func (i *Input) Lost(topic string, partition int32, n int64) {
	i.lost.Incr(n, topic, strconv.Itoa(int(partition)))
}

// Loops counts records left out because they passed through this relay before.
func (i *Input) Loops(n int64) { i.filtered.Incr(n, ByLoop) }

// ByPipeline counts records that a processor took out, of batches of which
// nothing was left.
func (i *Input) ByPipeline(n int64) { i.filtered.Incr(n, ByPipeline) }

// Blocked counts the times a full window held the input back.
func (i *Input) Blocked(n int64) { i.blocks.Incr(n) }

// Pool are the metrics of the sources. The label node_id is a source's name.
type Pool struct {
	errors, unhealthy, connections, lags, switches, changes *service.MetricCounter
	highWater, active                                       *service.MetricGauge
}

// NewPool registers them.
func NewPool(m *service.Metrics) *Pool {
	return &Pool{
		errors:      m.NewCounter(sourceErrors, "node_id", "error"),
		unhealthy:   m.NewCounter(sourceUnhealthy),
		connections: m.NewCounter(sourceConnections, "node_id"),
		lags:        m.NewCounter(sourceLagExceeded, "node_id"),
		switches:    m.NewCounter(sourceSwitches),
		changes:     m.NewCounter(sourceStateChanges, "node_id", "state"),
		highWater:   m.NewGauge(sourceHighWater, "node_id"),
		active:      m.NewGauge(sourceActive, "node_id"),
	}
}

// ConnectionFailed counts a connection to a source that could not be opened.
func (p *Pool) ConnectionFailed(name string) { p.errors.Incr(1, name, connectionFailed) }

// Connected counts a connection to a source.
func (p *Pool) Connected(name string) { p.connections.Incr(1, name) }

// NoneHealthy counts the times no healthy source was found.
func (p *Pool) NoneHealthy() { p.unhealthy.Incr(1) }

// Weight is the sum of a source's end offsets.
func (p *Pool) Weight(name string, sum int64) { p.highWater.Set(sum, name) }

// Lagging counts the times a source fell behind by more than lag_threshold.
func (p *Pool) Lagging(name string) { p.lags.Incr(1, name) }

// Changed counts changes of a source's state, by the new one.
func (p *Pool) Changed(name, state string) { p.changes.Incr(1, name, state) }

// Switched counts a switch from one source to another.
func (p *Pool) Switched() { p.switches.Incr(1) }

// Active says whether a source is the one that is read.
func (p *Pool) Active(name string, is bool) {
	v := int64(0)
	if is {
		v = 1
	}
	p.active.Set(v, name)
}
