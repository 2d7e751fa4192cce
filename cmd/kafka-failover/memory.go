package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
)

const (
	// gcPercent trades memory for time: a relay makes much short-lived garbage
	// and keeps little, so collecting less often saves a quarter of its CPU.
	gcPercent = 400
	// baseMemory, twice the window and a fetch are what the collector then keeps
	// to, where it can.
	baseMemory = 144 << 20
	// lookAtHeap is how often the limit is set anew.
	lookAtHeap = 250 * time.Millisecond
)

// tuneMemory sets the garbage collector's pace unless GOGC says otherwise.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// limitMemory bounds what the pace may cost, unless GOMEMLIMIT says otherwise.
// It is a soft limit: what is really in use may be more.
func limitMemory(in, out map[string]any) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	inFlight := 16
	if v, ok := out["max_in_flight"]; ok {
		_, _ = fmt.Sscan(fmt.Sprint(v), &inFlight)
	}
	window := int64(inFlight) * size(in, "batch_max_bytes", 4<<20)
	least := baseMemory + 2*window + size(in, "fetch_max_bytes", 16<<20)
	leastMemory.Store(least)
	debug.SetMemoryLimit(least)
}

// leastMemory is the lowest limit, by the configuration that was read last; 0
// while there is none.
var leastMemory atomic.Int64

var startFollowing = sync.OnceFunc(func() { go followMemory() })

// followMemory raises the limit where what is alive comes near it, and lowers
// it again: a collector that runs into its limit does nothing but collect, and
// compressed data may be many times their size once they are read.
func followMemory() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for range time.Tick(lookAtHeap) {
		if least := leastMemory.Load(); least > 0 {
			metrics.Read(live)
			debug.SetMemoryLimit(limitFor(least, int64(live[0].Value.Uint64())))
		}
	}
}

// limitFor leaves the collector as much again as the last collection left alive.
func limitFor(least, live int64) int64 { return max(least, baseMemory/2+2*live) }

func size(conf map[string]any, field string, otherwise int64) int64 {
	if v, ok := conf[field]; ok {
		if n, err := humanize.ParseBytes(fmt.Sprint(v)); err == nil {
			return int64(n)
		}
	}
	return otherwise
}
