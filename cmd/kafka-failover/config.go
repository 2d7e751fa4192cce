package main

import (
	"errors"
	"os"
	"runtime/debug"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// refuseBuffer refuses what would acknowledge batches before the target has
// them: what a buffer holds is lost with the process.
func refuseBuffer(conf *service.ParsedConfig) error {
	if !conf.Contains("input", "kafka_failover") || !conf.Contains("buffer") {
		return nil
	}
	buffer, err := conf.FieldAny("buffer")
	if err != nil {
		return err
	}
	m, _ := buffer.(map[string]any)
	for name := range m {
		if name != "none" && name != "label" {
			return errors.New("buffer: a kafka_failover input acknowledges only what the target has, and buffer " + name + " acknowledges what it holds in memory or on disk; remove the buffer")
		}
	}
	return nil
}

// gcPercent trades memory for time: a relay makes much short-lived garbage and
// keeps little, so collecting less often saves a quarter of its CPU.
const gcPercent = 400

// tuneMemory sets the garbage collector's pace unless GOGC says otherwise.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
