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
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// Proxies stand before all nodes of a cluster.
type Proxies struct {
	t    testing.TB
	list []*toxiproxy.Proxy
}

// Before opens a proxy before every node of a cluster that has fronts. They end
// with the test.
func Before(t testing.TB, c *kafkatest.Cluster) *Proxies {
	t.Helper()
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

// Hold lets every byte towards the cluster pass only after d, even those of a
// client that has died meanwhile.
func (p *Proxies) Hold(d time.Duration) {
	p.add("latency", "upstream", map[string]any{"latency": d.Milliseconds()})
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

const noFetch = "no_fetch"

func init() { toxics.Register(noFetch, new(swallowFetches)) }

// swallowFetches is a toxic that reads Kafka's frames (length, then the request
// with its API key first) and drops those of Fetch.
type swallowFetches struct{}

const apiFetch = 1

// Pipe implements toxics.Toxic.
func (*swallowFetches) Pipe(stub *toxics.ToxicStub) {
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
		if binary.BigEndian.Uint16(head[4:]) != apiFetch {
			_, _ = out.Write(append(head[:], body...))
		}
	}
}
