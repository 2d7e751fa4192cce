package metrics

import (
	"slices"
	"strconv"
	"sync"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// histogram gathers observations, which costs next to nothing, and passes them
// on at each flush, which costs a counter's call per bucket.
type histogram struct {
	bounds              []float64 // upper, ascending
	labels              []string  // of the buckets, +Inf the last
	buckets, sum, count *service.MetricCounter

	mu    sync.Mutex
	seen  []int64 // since the last flush, per bucket alone
	total float64
}

func (m *Metric) histogram(r *service.Metrics) *histogram {
	h := &histogram{
		bounds:  m.bounds,
		buckets: r.NewCounter(m.bucketName(), "le"), sum: r.NewCounter(m.sumName()), count: r.NewCounter(m.countName()),
		seen: make([]int64, len(m.bounds)+1),
	}
	for _, b := range m.bounds {
		h.labels = append(h.labels, strconv.FormatFloat(b, 'g', -1, 64))
	}
	h.labels = append(h.labels, "+Inf")
	h.flush()
	return h
}

func (h *histogram) observe(v float64) {
	i, _ := slices.BinarySearch(h.bounds, v) // the first bound that is not less
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen[i]++
	h.total += v
}

// flush passes on what was observed since the last time. A bucket counts what
// all lower ones count too.
func (h *histogram) flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	var n int64
	for i, seen := range h.seen {
		n += seen
		h.buckets.Incr(n, h.labels[i])
	}
	h.sum.IncrFloat64(h.total)
	h.count.Incr(n)
	clear(h.seen)
	h.total = 0
}
