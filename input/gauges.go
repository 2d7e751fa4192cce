package input

import (
	"sync/atomic"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// gaugeInterval is how often the gauges are set that move by themselves.
const gaugeInterval = time.Second

// gauges shows once a second, also while nothing moves, how far the target is
// behind the source that is read, and what is in the window.
type gauges struct {
	followed atomic.Pointer[followed]
	quit     chan struct{}
	over     chan struct{}
}

// followed is the generation that is shown.
type followed struct {
	gen   *relay.Generation
	began time.Time
	paths []metrics.Path // of its parts
}

// follow has a generation shown from now on.
func (g *gauges) follow(gen *relay.Generation) {
	f := &followed{gen: gen, began: time.Now(), paths: make([]metrics.Path, len(gen.Parts))}
	for i, p := range gen.Parts {
		to := int32(metrics.AnyPartition)
		if p.Slots == 1 {
			to = gen.Slots[p.FirstSlot].Partition
		}
		f.paths[i] = metrics.NewPath(p.Source.Topic, p.Source.Partition, p.Route.Target, to)
	}
	g.followed.Store(f)
}

// startGauges begins to show what m and the generations know.
func (in *Input) startGauges(m *pool.Monitor) {
	g := &in.gauges
	g.quit, g.over = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(g.over)
		tick := time.NewTicker(gaugeInterval)
		defer tick.Stop()
		for {
			select {
			case <-g.quit:
				return
			case <-tick.C:
			}
			if f := g.followed.Load(); f != nil {
				f.show(in.metrics, m.ActiveEnds(), time.Now())
			}
		}
	}()
}

func (g *gauges) stop() {
	if g.quit == nil {
		return
	}
	close(g.quit)
	<-g.over
	g.quit = nil
}

func (f *followed) show(m *metrics.Input, ends pool.Ends, now time.Time) {
	parts, held := f.gen.Load()
	m.Window(held, f.gen.WindowBytes())
	for i, p := range parts {
		if end, ok := ends[f.gen.Parts[i].Source]; ok {
			records, age := lag(p, end, f.began, now)
			m.Behind(f.paths[i], records, age)
		}
	}
}

// lag is how many offsets a part is behind the end, and how old the first record
// is that is not done, as far as one was read; if none was, how old the last one
// is that is.
func lag(p relay.Backlog, end int64, began, now time.Time) (records int64, age time.Duration) {
	if end <= p.Next {
		return 0, 0
	}
	since := p.Since
	if since.IsZero() {
		since = began
	}
	return end - p.Next, max(0, now.Sub(since))
}
