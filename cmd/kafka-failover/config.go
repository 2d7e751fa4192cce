package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"

	kafkafailover "github.com/kafka-failover/kafka-failover"
)

// onConfig prepares for running a configuration once it is parsed.
func onConfig(conf *service.ParsedConfig) error {
	kafkafailover.SetDirect(isDirect(conf, os.Args))
	startFollowing()
	return surroundings(conf)
}

// surroundings looks at the whole configuration: at what a plugin's constructor
// cannot see.
func surroundings(conf *service.ParsedConfig) error {
	in := find(conf, "kafka_failover", "input", "input_resources")
	if in == nil {
		return nil
	}
	limitMemory(in, find(conf, "kafka_failover", "output", "output_resources"))
	if buffer, ok := root(conf, "buffer").(map[string]any); ok {
		for name := range buffer {
			if name != "none" && name != "label" {
				return fmt.Errorf("buffer %s: a kafka_failover input acknowledges only what the target has, and a buffer acknowledges what it holds itself, which a crash would lose; remove the buffer", name)
			}
		}
	}
	if in["resume"] == "cache" { // what is refused is read again
		return nil
	}
	if e, ok := root(conf, "error_handling").(map[string]any); ok && e["strict"] == true {
		return errors.New("error_handling.strict takes failed messages out of batches before the kafka_failover output sees them, and what is missing then passes for filtered; remove it: on_error of the output decides what happens to failed messages, and stops by default")
	}
	return nil
}

// root is a top-level value of the configuration as it was written.
func root(conf *service.ParsedConfig, name string) any {
	if !conf.Contains(name) {
		return nil
	}
	v, err := conf.FieldAny(name)
	if err != nil {
		return nil
	}
	return decoded(v)
}

// decoded replaces the YAML nodes that components stay by plain values.
func decoded(v any) any {
	switch x := v.(type) {
	case interface{ Decode(any) error }:
		var plain any
		if err := x.Decode(&plain); err != nil {
			return nil
		}
		return plain
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, y := range x {
			out[k] = decoded(y)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, y := range x {
			out[i] = decoded(y)
		}
		return out
	}
	return v
}

// find returns the first component of a type, at any depth below the named
// top-level values.
func find(conf *service.ParsedConfig, component string, below ...string) map[string]any {
	for _, name := range below {
		if m := findIn(root(conf, name), component); m != nil {
			return m
		}
	}
	return nil
}

func findIn(v any, component string) map[string]any {
	switch x := v.(type) {
	case map[string]any:
		if m, ok := x[component].(map[string]any); ok {
			return m
		}
		for _, y := range x {
			if m := findIn(y, component); m != nil {
				return m
			}
		}
	case []any:
		for _, y := range x {
			if m := findIn(y, component); m != nil {
				return m
			}
		}
	}
	return nil
}

// endWithFatal ends the process as SIGTERM does, within shutdown_timeout, when a
// relay has stopped for good and is to end it: the engine does not end by itself
// while it watches files, or while something waits for a target that is down. In
// streams mode only the stream ends.
func endWithFatal(args []string) {
	if slices.Contains(args, "streams") {
		return
	}
	<-kafkafailover.Exiting()
	time.Sleep(graceToEnd)
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
}

// graceToEnd is what the engine gets to end by itself.
const graceToEnd = 2 * time.Second
