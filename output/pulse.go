package output

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// pulseInterval is how often metrics are passed on that are gathered, or age.
const pulseInterval = time.Second

// pulse keeps an output's metrics current, also while nothing is written, from
// the first use of the output until it is closed.
type pulse struct {
	mu      sync.Mutex
	closed  bool
	quit    chan struct{} // nil before the first use
	running sync.WaitGroup
}

func (p *pulse) start(m *metrics.Output) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.quit != nil {
		return
	}
	p.quit = make(chan struct{})
	p.running.Go(func() {
		tick := time.NewTicker(pulseInterval)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-tick.C:
				m.Tick()
			}
		}
	})
}

// stop passes on what is left.
func (p *pulse) stop(m *metrics.Output) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	if p.quit != nil {
		close(p.quit)
		p.running.Wait()
		m.Tick()
	}
}

// events counts what happens to the connections to the target.
func (o *Output) events() *kafka.Events {
	return &kafka.Events{
		Failed:     func(err error) { o.metrics.ConnectionFailed(err, kafka.InTLS(err)) },
		Unanswered: func() { o.metrics.Retried(1) },
	}
}

// countRefused counts a batch that was refused, unless it failed by our own doing.
func (o *Output) countRefused(err error) {
	for _, own := range []error{relay.ErrBroken, context.Canceled, kgo.ErrClientClosed, kgo.ErrAborting} {
		if errors.Is(err, own) {
			return
		}
	}
	o.metrics.Refused()
}

// dial makes a client.
func (o *Output) dial(opts []kgo.Opt) (*kgo.Client, error) {
	c, err := kafka.Dial(opts)
	if err != nil {
		o.metrics.NoClient()
	}
	return c, err
}
