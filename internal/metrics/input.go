package metrics

import (
	"strconv"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// Input are the metrics the input keeps.
type Input struct {
	filtered, lost, blocks                              *service.MetricCounter
	ready, lagRecords, lagSeconds, window, windowLimits *service.MetricGauge
}

// NewInput registers them.
func NewInput(m *service.Metrics) *Input {
	i := &Input{
		filtered: filtered.counter(m), lost: lost.counter(m), blocks: blocks.counter(m),
		ready: ready.gauge(m), lagRecords: lagRecords.gauge(m), lagSeconds: lagSeconds.gauge(m),
		window: windowBytes.gauge(m), windowLimits: windowLimit.gauge(m),
	}
	i.Ready(false)
	i.Loops(0)
	i.ByPipeline(0)
	i.Blocked(0)
	return i
}

// Ready says whether the relay is ready, as /ready does.
func (i *Input) Ready(is bool) { i.ready.Set(number(is)) }

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

// Window says how much of the window is in use, and how large it is.
func (i *Input) Window(used, limit int) {
	i.window.Set(int64(used))
	i.windowLimits.Set(int64(limit))
}

// Behind says how far the position is behind the source's end, and how old the
// first record is that is not done.
func (i *Input) Behind(p Path, records int64, age time.Duration) {
	i.lagRecords.Set(records, p[:]...)
	i.lagSeconds.SetFloat64(age.Seconds(), p[:]...)
}

func number(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
