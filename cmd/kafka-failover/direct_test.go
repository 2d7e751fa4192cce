package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/redpanda-data/benthos/v4/public/service"
)

const (
	someInput  = "input: { kafka_failover: { sources: [ { name: a, seed_brokers: [ \"localhost:1\" ] } ], topics: [ t ] } }\n"
	someOutput = "output: { kafka_failover: { seed_brokers: [ \"localhost:1\" ] } }\n"
	someFilter = "{ label: f, kafka_failover_filter: { name: x, check: 'true' } }"
)

// Only what is certain to leave messages alone is direct.
func TestIsDirect(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		args []string
		want bool
	}{
		"bare":                {yaml: someInput + someOutput, want: true},
		"threads":             {yaml: someInput + "pipeline: { threads: 4 }\n" + someOutput, want: true},
		"filters":             {yaml: someInput + "pipeline: { processors: [ " + someFilter + ", { kafka_failover_filter: { name: y, check: 'false' } } ] }\n" + someOutput, want: true},
		"labels":              {yaml: "input: { label: i, " + someInput[9:] + "output: { label: o, " + someOutput[10:], want: true},
		"a mapping":           {yaml: someInput + "pipeline: { processors: [ { mapping: 'root = this' } ] }\n" + someOutput},
		"a filter, a mapping": {yaml: someInput + "pipeline: { processors: [ " + someFilter + ", { mapping: 'root = this' } ] }\n" + someOutput},
		"a resource":          {yaml: someInput + "pipeline: { processors: [ { resource: r } ] }\nprocessor_resources: [ " + "{ label: r, kafka_failover_filter: { name: x, check: 'true' } }" + " ]\n" + someOutput},
		"on the input":        {yaml: "input: { processors: [ { mapping: 'root = this' } ], " + someInput[9:] + someOutput},
		"on the output":       {yaml: someInput + "output: { processors: [ " + someFilter + " ], " + someOutput[10:]},
		"a broker":            {yaml: "input: { broker: { inputs: [ " + someInput[7:len(someInput)-1] + " ] } }\n" + someOutput},
		"another output":      {yaml: someInput + "output: { drop: {} }\n"},
		"output with a topic": {yaml: someInput + "output: { kafka_failover: { seed_brokers: [ \"localhost:1\" ], topic: x } }\n"},
		"output with a key":   {yaml: someInput + "output: { kafka_failover: { seed_brokers: [ \"localhost:1\" ], key: '${! @k }' } }\n"},
		"metadata as headers": {yaml: someInput + "output: { kafka_failover: { seed_brokers: [ \"localhost:1\" ], header_metadata: { include_prefixes: [ x ] } } }\n"},
		"a second output":     {yaml: someInput + someOutput + "output_resources: [ { label: o, " + someOutput[10:len(someOutput)-1] + " ]\n"},
		"watching":            {yaml: someInput + someOutput, args: []string{"run", "-w"}},
		"watching, spelt out": {yaml: someInput + someOutput, args: []string{"run", "--watcher=true"}},
		"streams":             {yaml: someInput + someOutput, args: []string{"streams"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(file, []byte(c.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			seen, got := errors.New("not seen"), false
			_, err := service.RunCLIToCode(context.Background(),
				service.CLIOptSetArgs("kafka-failover", "run", "--set", "http.enabled=false", "--set", "logger.level=off", file),
				service.CLIOptOnConfigParse(func(conf *service.ParsedConfig) error {
					seen, got = errSeen, isDirect(conf, c.args)
					return errSeen
				}))
			if !errors.Is(seen, errSeen) {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("direct: %v", got)
			}
		})
	}
}

// The limit leaves room behind what is alive, and does not sink below its least.
func TestLimitFor(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[int64]int64{0: 300 * mib, 100 * mib: 300 * mib, 114 * mib: 300 * mib, 200 * mib: 472 * mib} {
		if got := limitFor(300*mib, live); got != want {
			t.Errorf("%d MiB alive: %d MiB", live/mib, got/mib)
		}
	}
}
