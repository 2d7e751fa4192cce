package relay

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Progress is how far a bounded run (stop_at_end) has come. It counts source
// offsets, which tell how much is left; records may be fewer.
type Progress struct {
	began  time.Time
	topics []string
	from   map[position.TP]int64
	to     map[position.TP]int64
	gen    atomic.Pointer[Generation]
	read   []atomic.Int64 // records, by topic
	took   atomic.Int64   // nanoseconds, once it has ended
}

// TopicProgress is one source topic of a Progress.
type TopicProgress struct {
	Topic string
	// Done of Total offsets are relayed and acknowledged, or filtered.
	Done, Total int64
	// Read are the records read, those read again after a failed write
	// included.
	Read int64
}

// bounded are the bounded runs of the process.
var bounded struct {
	sync.Mutex
	runs []*Progress
}

// NewProgress begins to tell of a run from starts to ends.
func NewProgress(starts, ends map[position.TP]int64) *Progress {
	p := &Progress{began: time.Now(), from: map[position.TP]int64{}, to: map[position.TP]int64{}}
	for tp, start := range starts {
		if !slices.Contains(p.topics, tp.Topic) {
			p.topics = append(p.topics, tp.Topic)
		}
		p.from[tp], p.to[tp] = start, max(start, ends[tp])
	}
	slices.Sort(p.topics)
	p.read = make([]atomic.Int64, len(p.topics))
	bounded.Lock()
	defer bounded.Unlock()
	bounded.runs = append(bounded.runs, p)
	return p
}

// Bounded are the bounded runs of the process so far.
func Bounded() []*Progress {
	bounded.Lock()
	defer bounded.Unlock()
	return slices.Clone(bounded.runs)
}

// Follow has the progress read off a generation from now on.
func (p *Progress) Follow(g *Generation) { p.gen.Store(g) }

// Read counts records read of a topic. A nil Progress counts nothing.
func (p *Progress) Read(topic string, n int) {
	if p == nil {
		return
	}
	if i, ok := slices.BinarySearch(p.topics, topic); ok {
		p.read[i].Add(int64(n))
	}
}

// End notes that the run has ended.
func (p *Progress) End() { p.took.CompareAndSwap(0, int64(time.Since(p.began))) }

// Took is how long the run took, or has taken so far.
func (p *Progress) Took() time.Duration {
	if d := p.took.Load(); d > 0 {
		return time.Duration(d)
	}
	return time.Since(p.began)
}

// Topics is how far each topic has come.
func (p *Progress) Topics() []TopicProgress {
	out := make([]TopicProgress, len(p.topics))
	for i, name := range p.topics {
		out[i] = TopicProgress{Topic: name, Read: p.read[i].Load()}
	}
	at := map[position.TP]int64{}
	if g := p.gen.Load(); g != nil {
		at = g.Positions()
	}
	for tp, from := range p.from {
		i, _ := slices.BinarySearch(p.topics, tp.Topic)
		out[i].Total += p.to[tp] - from
		out[i].Done += max(0, min(at[tp], p.to[tp])-from)
	}
	return out
}
