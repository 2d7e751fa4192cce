package main

import (
	"slices"
	"strings"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// filterName is the one processor that may stand in a direct pipeline.
const filterName = "kafka_failover_filter"

// isDirect tells whether the configuration is one input, one output and nothing
// between them but filters, and asks for nothing that only metadata can give.
// When in doubt it is not: messages then carry all they ever do.
func isDirect(conf *service.ParsedConfig, args []string) bool {
	if slices.ContainsFunc(args, isLater) {
		return false
	}
	in, out := alone(root(conf, "input")), alone(root(conf, "output"))
	if in == nil || out == nil || find(conf, "kafka_failover", "input_resources", "output_resources") != nil {
		return false
	}
	for _, field := range []string{"topic", "key", "partition", "header_metadata"} {
		if v, ok := out[field]; ok && v != "" {
			return false
		}
	}
	pipeline, _ := root(conf, "pipeline").(map[string]any)
	processors, _ := pipeline["processors"].([]any)
	return !slices.ContainsFunc(processors, func(p any) bool { return !isFilter(p) })
}

// isLater tells whether an argument means that configurations are read later too,
// which are not known yet.
func isLater(arg string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return arg == "streams" || (strings.HasPrefix(arg, "-") && (name == "w" || name == "watcher"))
}

// alone returns the configuration of a kafka_failover component that has no
// processors of its own.
func alone(component any) map[string]any {
	m, _ := component.(map[string]any)
	for name, v := range m {
		list, _ := v.([]any)
		if name != "kafka_failover" && name != "label" && (name != "processors" || len(list) > 0) {
			return nil
		}
	}
	conf, _ := m["kafka_failover"].(map[string]any)
	return conf
}

func isFilter(processor any) bool {
	m, _ := processor.(map[string]any)
	for name := range m {
		if name != filterName && name != "label" {
			return false
		}
	}
	return m[filterName] != nil
}
