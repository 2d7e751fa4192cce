package metrics

import "github.com/redpanda-data/benthos/v4/public/service"

// Values of the label `error` of the sources' metrics.
const (
	connectionFailed = "connection_failed"
	clientClosed     = "client_closed"
	fetchError       = "fetch_error"
)

// Pool are the metrics of the sources. The label node_id is a source's name.
type Pool struct {
	errors, kafkaErrors, unhealthy, connections, lags, switches, changes, read *service.MetricCounter
	highWater, behind, active, state                                           *service.MetricGauge
}

// NewPool registers them.
func NewPool(m *service.Metrics) *Pool {
	p := &Pool{
		errors: sourceErrors.counter(m), kafkaErrors: sourceKafkaErrors.counter(m), unhealthy: sourceUnhealthy.counter(m),
		connections: sourceConnections.counter(m), lags: sourceLagExceeded.counter(m), switches: sourceSwitches.counter(m),
		changes: sourceStateChanges.counter(m), read: sourceRead.counter(m),
		highWater: sourceHighWater.gauge(m), behind: sourceLag.gauge(m), active: sourceActive.gauge(m), state: sourceState.gauge(m),
	}
	p.unhealthy.Incr(0)
	p.switches.Incr(0)
	return p
}

// Begin shows a source that nothing is known of yet: it is in the first of these
// states.
func (p *Pool) Begin(name string, states ...string) {
	for i, s := range states {
		p.state.Set(number(i == 0), name, s)
	}
	p.Active(name, false)
	p.errors.Incr(0, name, connectionFailed)
	for _, e := range []string{clientClosed, fetchError} {
		p.kafkaErrors.Incr(0, name, e)
	}
	for _, c := range []*service.MetricCounter{p.connections, p.lags, p.read} {
		c.Incr(0, name)
	}
}

// ConnectionFailed counts a connection to a source that could not be opened.
func (p *Pool) ConnectionFailed(name string) { p.errors.Incr(1, name, connectionFailed) }

// FetchFailed counts an error of reading; closed says that the client was closed
// under it.
func (p *Pool) FetchFailed(name string, closed bool) {
	e := fetchError
	if closed {
		e = clientClosed
	}
	p.kafkaErrors.Incr(1, name, e)
}

// Connected counts a connection to a source.
func (p *Pool) Connected(name string) { p.connections.Incr(1, name) }

// NoneHealthy counts the times no healthy source was found.
func (p *Pool) NoneHealthy() { p.unhealthy.Incr(1) }

// Ends is what a good probe shows: the sum of a source's end offsets, and how
// many records it is behind the others.
func (p *Pool) Ends(name string, sum, behind int64) {
	p.highWater.Set(sum, name)
	p.behind.Set(behind, name)
}

// Lagging counts the times a source fell behind by more than lag_threshold.
func (p *Pool) Lagging(name string) { p.lags.Incr(1, name) }

// Changed counts and shows a change of a source's state.
func (p *Pool) Changed(name, from, to string) {
	p.state.Set(0, name, from)
	p.state.Set(1, name, to)
	p.changes.Incr(1, name, to)
}

// Switched counts a switch from one source to another.
func (p *Pool) Switched() { p.switches.Incr(1) }

// Read counts records read from a source.
func (p *Pool) Read(name string, n int64) { p.read.Incr(n, name) }

// Active says whether a source is the one that is read.
func (p *Pool) Active(name string, is bool) { p.active.Set(number(is), name) }
