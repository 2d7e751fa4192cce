package main

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/kafka-failover/kafka-failover/internal/verify"
)

// hasProcessors tells whether anything stands between input and output.
func (c *configured) hasProcessors(r configuredRelay) bool {
	list, _ := c.rawProcessors().([]any)
	return len(list) > 0 || r.processors
}

func (c *configured) rawProcessors() any {
	p, _ := root(c.conf, "pipeline").(map[string]any)
	return p["processors"]
}

// pipeline builds the processors of the configuration, and says which of them
// may not do the same again.
func (c *configured) pipeline(r configuredRelay) (p *verify.Pipeline, impure []string, err error) {
	if r.processors {
		return nil, nil, errors.New("the kafka_failover input or output has processors of its own, which verify cannot apply: move them to pipeline.processors")
	}
	p = &verify.Pipeline{}
	raw := c.rawProcessors()
	if list, _ := raw.([]any); len(list) == 0 {
		return p, nil, nil
	}
	if p.Processors, err = c.conf.FieldProcessorList("pipeline", "processors"); err != nil {
		return nil, nil, err
	}
	names := impurities(raw)
	if len(names) > 0 {
		impure = append(impure, fmt.Sprintf("%s may give another result than when the relay ran: what it decides may show up as a difference", strings.Join(names, ", ")))
	}
	return p, impure, nil
}

// pure processors give the same result for the same message, and change nothing
// elsewhere.
var pure = []string{
	"archive", "avro", "bloblang", "bounds_check", "compress", "decompress", "grok", "insert_part", "jmespath", "jq", "json_schema",
	"log", "mapping", "metric", "msgpack", "mutation", "noop", "parse_log", "protobuf", "schema_registry_decode", "select_parts", "sleep", "split", "unarchive", "xml",
}

// Processors that hold others are as pure as those: as a list of their own, or
// in fields called processors.
var (
	listing = []string{"for_each", "try", "catch", "processors"}
	nesting = []string{"branch", "group_by", "group_by_value", "parallel", "switch", "while", "workflow"}
)

// impureCall is a Bloblang function whose result changes from call to call.
var impureCall = regexp.MustCompile(`\b(now|uuid_v4|uuid_v7|random_int|counter|count|ksuid|nanoid|ulid|snowflake_id|timestamp_unix\w*|env|file|file_rel|hostname|fake|batch_index|batch_size|tracing_id|tracing_span)\(`)

// impurities names what in a list of processors is not known to be pure.
func impurities(processors any) []string {
	f := impure{}
	f.list(processors)
	names := slices.Sorted(maps.Keys(f))
	return names
}

type impure map[string]bool

func (f impure) list(v any) {
	items, _ := v.([]any)
	for _, item := range items {
		fields, _ := item.(map[string]any)
		for name, conf := range fields {
			f.processor(name, conf)
		}
	}
}

func (f impure) processor(name string, conf any) {
	switch {
	case name == "label":
	case name == "resource":
		f[fmt.Sprintf("the processor resource %v", conf)] = true
	case slices.Contains(listing, name):
		f.list(conf)
	case slices.Contains(pure, name), slices.Contains(nesting, name):
		f.within(conf)
	default:
		f["the processor "+name] = true
	}
}

// within looks for mappings that call impure functions, and for processors.
func (f impure) within(v any) {
	switch x := v.(type) {
	case string:
		for _, m := range impureCall.FindAllStringSubmatch(x, -1) {
			f["the function "+m[1]] = true
		}
	case map[string]any:
		for name, y := range x {
			if name == "processors" {
				f.list(y)
			} else {
				f.within(y)
			}
		}
	case []any:
		for _, y := range x {
			f.within(y)
		}
	}
}
