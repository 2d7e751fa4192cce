package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/dustin/go-humanize"
	"github.com/redpanda-data/benthos/v4/public/service"
)

// onConfig looks at the whole configuration once it is parsed: what a plugin's
// constructor cannot see of its surroundings.
func onConfig(conf *service.ParsedConfig) error {
	if _, relays := dig(conf, "input", "kafka_failover"); !relays {
		return nil
	}
	limitMemory(conf)
	return refuseBuffer(conf)
}

// dig finds a value of the configuration as it was written.
func dig(conf *service.ParsedConfig, path ...string) (any, bool) {
	if !conf.Contains(path[0]) {
		return nil, false
	}
	v, err := conf.FieldAny(path[0])
	if err != nil {
		return nil, false
	}
	if node, ok := v.(interface{ Decode(any) error }); ok { // components stay YAML nodes
		if err := node.Decode(&v); err != nil {
			return nil, false
		}
	}
	for _, name := range path[1:] {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// refuseBuffer refuses what would acknowledge batches before the target has
// them: what a buffer holds is lost with the process.
func refuseBuffer(conf *service.ParsedConfig) error {
	v, _ := dig(conf, "buffer")
	m, _ := v.(map[string]any)
	for name := range m {
		if name != "none" && name != "label" {
			return fmt.Errorf("buffer %s: a kafka_failover input acknowledges only what the target has, and a buffer acknowledges what it holds itself, which a crash would lose; remove the buffer", name)
		}
	}
	return nil
}

const (
	// gcPercent trades memory for time: a relay makes much short-lived garbage
	// and keeps little, so collecting less often saves a quarter of its CPU.
	gcPercent = 400
	// baseMemory and twice the window are what the collector then keeps to,
	// where it can: fetch buffers, the engine, and the garbage between.
	baseMemory = 160 << 20
)

// tuneMemory sets the garbage collector's pace unless GOGC says otherwise.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// limitMemory bounds what the pace may cost, unless GOMEMLIMIT says otherwise.
// It is a soft limit: what is really in use may be more.
func limitMemory(conf *service.ParsedConfig) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	inFlight, batch := 16, uint64(4<<20)
	if v, ok := dig(conf, "output", "kafka_failover", "max_in_flight"); ok {
		_, _ = fmt.Sscan(fmt.Sprint(v), &inFlight)
	}
	if v, ok := dig(conf, "input", "kafka_failover", "batch_max_bytes"); ok {
		if n, err := humanize.ParseBytes(fmt.Sprint(v)); err == nil {
			batch = n
		}
	}
	debug.SetMemoryLimit(baseMemory + 2*int64(inFlight)*int64(batch))
}
