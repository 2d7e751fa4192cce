// Package netfault breaks the network between a relay and a broker: connections
// refused, bytes swallowed or held, fetches unanswered.
package netfault

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// Proxies stand before all nodes of a cluster.
type Proxies struct {
	t      testing.TB
	list   []*toxiproxy.Proxy
	frames *frames // of Framed
}

// taken has a lock for each cluster: its fronts are for one test at a time.
var taken sync.Map // *kafkatest.Cluster -> *sync.Mutex

// Before opens a proxy before every node of a cluster that has fronts. They end
// with the test; one that runs beside it waits for that.
func Before(t testing.TB, c *kafkatest.Cluster) *Proxies {
	t.Helper()
	mu, _ := taken.LoadOrStore(c, &sync.Mutex{})
	mu.(*sync.Mutex).Lock()
	t.Cleanup(mu.(*sync.Mutex).Unlock)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	p := &Proxies{t: t}
	for _, f := range c.Fronts() {
		proxy := toxiproxy.NewProxy(server, f.Address, f.Address, f.Behind)
		if err := proxy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Stop)
		p.list = append(p.list, proxy)
	}
	return p
}

// Brokers are the addresses of the proxies.
func (p *Proxies) Brokers() []string {
	out := make([]string, len(p.list))
	for i, x := range p.list {
		out[i] = x.Listen
	}
	return out
}

// Cut closes all connections and refuses new ones.
func (p *Proxies) Cut() {
	for _, x := range p.list {
		x.Stop()
	}
}

// Mend undoes Cut.
func (p *Proxies) Mend() {
	p.t.Helper()
	for _, x := range p.list {
		if err := x.Start(); err != nil {
			p.t.Fatal(err)
		}
	}
}

// Swallow lets connections stand and no byte through, either way: a half-open
// connection, a black hole.
func (p *Proxies) Swallow() {
	p.add("timeout", "upstream", map[string]any{"timeout": 0})
	p.add("timeout", "downstream", map[string]any{"timeout": 0})
}

// SwallowFetches lets everything through but requests for records.
func (p *Proxies) SwallowFetches() { p.add(noFetch, "upstream", nil) }

// Held are requests of one kind that proxies meet.
type Held struct {
	api  uint16
	pass bool

	frames   *frames
	mu       sync.Mutex
	n        int
	first    chan struct{} // closed when the first one was met
	released chan struct{}
}

// Requests that can be held, by their API keys.
const (
	Produce = 0
	EndTxn  = 26
)

// Framed opens proxies that know Kafka's requests, for HoldRequests and
// PassRequests.
func Framed(t testing.TB, c *kafkatest.Cluster) *Proxies {
	t.Helper()
	p := Before(t, c)
	p.frames = new(frames)
	allFrames.Lock()
	allFrames.list = append(allFrames.list, p.frames)
	n := len(allFrames.list) - 1
	allFrames.Unlock()
	p.add(holdFrames, "upstream", map[string]any{"frames": n}) // before any connection, so that it meets whole requests
	return p
}

// HoldRequests stops requests of one kind, and what comes behind them on their
// connections, until Release: even those of a client that has died meanwhile.
func (p *Proxies) HoldRequests(api uint16) *Held { return p.hold(api, false) }

// PassRequests lets them through, to tell when the first one is.
func (p *Proxies) PassRequests(api uint16) *Held { return p.hold(api, true) }

func (p *Proxies) hold(api uint16, pass bool) *Held {
	h := &Held{api: api, pass: pass, frames: p.frames, first: make(chan struct{}), released: make(chan struct{})}
	p.frames.held.Store(h)
	return h
}

// First is closed when the first such request was met.
func (h *Held) First() <-chan struct{} { return h.first }

// Count is how many were met.
func (h *Held) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// Release lets everything go on.
func (h *Held) Release() {
	h.frames.held.CompareAndSwap(h, nil)
	close(h.released)
}

func (h *Held) meet() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n++; h.n == 1 {
		close(h.first)
	}
}

// Heal undoes what Swallow and SwallowFetches did.
func (p *Proxies) Heal() {
	for _, x := range p.list {
		x.Toxics.ResetToxics(context.Background())
	}
}

func (p *Proxies) add(kind, direction string, attributes map[string]any) {
	p.t.Helper()
	for _, x := range p.list {
		b, err := json.Marshal(map[string]any{"name": kind + "_" + direction, "type": kind, "stream": direction, "attributes": attributes})
		if err != nil {
			p.t.Fatal(err)
		}
		if _, err := x.Toxics.AddToxicJson(strings.NewReader(string(b))); err != nil {
			p.t.Fatal(err)
		}
	}
}

const (
	noFetch    = "no_fetch"
	holdFrames = "hold_frames"
)

func init() {
	toxics.Register(noFetch, new(swallowFetches))
	toxics.Register(holdFrames, new(holdRequests))
}

// swallowFetches is a toxic that drops Fetch requests.
type swallowFetches struct{}

const apiFetch = 1

// Pipe implements toxics.Toxic.
func (*swallowFetches) Pipe(stub *toxics.ToxicStub) {
	eachFrame(stub, func(api uint16, write func()) {
		if api != apiFetch {
			write()
		}
	})
}

// frames is what proxies do with requests.
type frames struct{ held atomic.Pointer[Held] }

// allFrames are what the toxics made from JSON refer to.
var allFrames struct {
	sync.Mutex
	list []*frames
}

// holdRequests is a toxic that stops requests of one kind.
type holdRequests struct {
	Frames int `json:"frames"`
}

// Pipe implements toxics.Toxic.
func (t *holdRequests) Pipe(stub *toxics.ToxicStub) {
	allFrames.Lock()
	f := allFrames.list[t.Frames]
	allFrames.Unlock()
	eachFrame(stub, func(api uint16, write func()) {
		h := f.held.Load()
		switch {
		case h == nil || api != h.api:
			write()
		case h.pass:
			write()
			h.meet()
		default:
			h.meet()
			<-h.released
			write()
		}
	})
}

// eachFrame reads Kafka's frames: length, then the request with its API key
// first.
func eachFrame(stub *toxics.ToxicStub, handle func(api uint16, write func())) {
	in := stream.NewChanReader(stub.Input)
	in.SetInterrupt(stub.Interrupt)
	out := stream.NewChanWriter(stub.Output)
	for {
		var head [6]byte
		n, err := io.ReadFull(in, head[:])
		if errors.Is(err, stream.ErrInterrupted) {
			_, _ = out.Write(head[:n])
			return
		}
		if err != nil {
			stub.Close()
			return
		}
		body := make([]byte, int(binary.BigEndian.Uint32(head[:4]))-2)
		if _, err := io.ReadFull(in, body); err != nil {
			stub.Close()
			return
		}
		handle(binary.BigEndian.Uint16(head[4:]), func() { _, _ = out.Write(append(head[:], body...)) })
	}
}
