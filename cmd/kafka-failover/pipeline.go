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

// pipeline builds the processors of the configuration, and says what about them
// may not be the same again. Those that may do something elsewhere are built
// only with permission.
func (c *configured) pipeline(r configuredRelay, effects bool) (p *verify.Pipeline, warnings []string, err error) {
	if r.processors {
		return nil, nil, errors.New("the kafka_failover input or output has processors of its own, or a component around it has: verify cannot apply those; move them to pipeline.processors")
	}
	if r.unseen {
		warnings = append(warnings, "the input or output is a resource of another file: if it has processors of its own, they are not applied")
	}
	p = &verify.Pipeline{}
	raw := c.rawProcessors()
	if list, _ := raw.([]any); len(list) == 0 {
		return p, warnings, nil
	}
	f := c.judge(raw)
	if names := slices.Sorted(maps.Keys(f.effects)); len(names) > 0 {
		if !effects {
			return nil, nil, fmt.Errorf("verify --pipeline would run %s again for every record, and may change something elsewhere by it; add --allow-side-effects if that does no harm", strings.Join(names, ", "))
		}
		warnings = append(warnings, fmt.Sprintf("%s ran again for every record, and may have changed something elsewhere, or decided differently than when the relay ran", strings.Join(names, ", ")))
	}
	if names := slices.Sorted(maps.Keys(f.varies)); len(names) > 0 {
		warnings = append(warnings, fmt.Sprintf("%s may give another result than when the relay ran: that shows up as a difference", strings.Join(names, ", ")))
	}
	p.Processors, err = c.conf.FieldProcessorList("pipeline", "processors")
	return p, warnings, err
}

// pure processors give the same result for the same message, and change nothing
// elsewhere.
var pure = []string{
	"avro", "bloblang", "compress", "decompress", "grok", "jmespath", "jq", "json_schema", "kafka_failover_filter", "log", "mapping", "metric", "msgpack", "mutation",
	"noop", "parse_log", "protobuf", "schema_registry_decode", "sleep", "unarchive", "xml",
}

// Processors that hold others are as pure as those: as a list of their own, or
// in fields called processors.
var (
	listing = []string{"for_each", "try", "catch", "processors"}
	nesting = []string{"branch", "parallel", "switch", "while"}
)

// batchwise processors depend on which messages happen to share a batch.
var batchwise = []string{"archive", "bounds_check", "group_by", "group_by_value", "insert_part", "select_parts", "split"}

// varying finds what in a mapping changes from call to call, from batch to
// batch, or with the source that was read, and files that are not looked into.
var varying = regexp.MustCompile(`\b(now|uuid_v4|uuid_v7|random_int|counter|count|ksuid|nanoid|ulid|snowflake_id|timestamp_unix\w*|env|file|file_rel|hostname|fake|batch_index|batch_size|from|from_all|tracing_id|tracing_span)\(|\b(kafka_source)\b|\b(import|from) "`)

// impure is what was found in processors: what may do something elsewhere, and
// what may only come out differently.
type impure struct {
	effects, varies map[string]bool
	resources       map[string]map[string]any
}

func (c *configured) judge(processors any) *impure {
	f := &impure{effects: map[string]bool{}, varies: map[string]bool{}, resources: map[string]map[string]any{}}
	list, _ := root(c.conf, "processor_resources").([]any)
	for _, item := range list {
		if m, _ := item.(map[string]any); m != nil {
			label, _ := m["label"].(string)
			f.resources[label] = m
		}
	}
	f.list(processors)
	return f
}

func (f *impure) list(v any) {
	items, _ := v.([]any)
	for _, item := range items {
		fields, _ := item.(map[string]any)
		f.fields(fields)
	}
}

func (f *impure) fields(fields map[string]any) {
	for name, conf := range fields {
		if name != "label" {
			f.processor(name, conf)
		}
	}
}

func (f *impure) processor(name string, conf any) {
	switch {
	case name == "resource":
		label := fmt.Sprint(conf)
		fields, known := f.resources[label]
		if !known { // of another file
			f.effects["the processor resource "+label] = true
			return
		}
		delete(f.resources, label) // once is enough, and they may nest
		f.fields(fields)
	case slices.Contains(listing, name):
		f.list(conf)
	case slices.Contains(batchwise, name):
		f.varies["the processor "+name] = true
		f.within(conf)
	case slices.Contains(pure, name), slices.Contains(nesting, name):
		f.within(conf)
	default:
		f.effects["the processor "+name] = true
	}
}

// within looks for mappings that vary, and for processors.
func (f *impure) within(v any) {
	switch x := v.(type) {
	case string:
		for _, m := range varying.FindAllStringSubmatch(x, -1) {
			switch {
			case m[1] != "":
				f.varies["the function "+m[1]] = true
			case m[2] != "":
				f.varies["the metadata "+m[2]] = true
			default:
				f.varies["an imported mapping"] = true
			}
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
