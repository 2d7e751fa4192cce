package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/urfave/cli/v2"
	"gopkg.in/yaml.v3"

	"github.com/kafka-failover/kafka-failover/input"
	"github.com/kafka-failover/kafka-failover/output"
)

// configured is a configuration as `run` sees it: environment, --set and
// resource files applied.
type configured struct {
	conf   *service.ParsedConfig
	relays []configuredRelay
}

// configuredRelay is a kafka_failover input and the output it belongs to.
type configuredRelay struct {
	name string
	in   *input.Input
	out  *output.Output // nil with resume: cache
	// processors: the input or the output has processors of its own, or a
	// component around it has. unseen: whether it has cannot be told.
	processors, unseen bool
}

// configFlags are the flags of `run` that shape a configuration.
func configFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "set", Aliases: []string{"s"}, Usage: "set a field of the configuration, by its path, as in run"},
		&cli.StringSliceFlag{Name: "resources", Aliases: []string{"r"}, Usage: "further files of resources, as in run"},
		&cli.StringSliceFlag{Name: "templates", Aliases: []string{"t"}, Usage: "files of templates, as in run"},
		&cli.StringSliceFlag{Name: "env-file", Aliases: []string{"e"}, Usage: "a file of environment variables, as in run"},
		&cli.BoolFlag{Name: "chilled", Usage: "go on in spite of what lint says, as in run"},
		&cli.StringFlag{Name: "log.level", Value: "error", Usage: "what to log to stderr besides the report: off, error, warn, info, debug, trace"},
	}
}

// errSeen ends `run` once the configuration has been seen.
var errSeen = errors.New("seen")

// withConfig has `run` read the configuration and, in place of starting the
// pipeline, calls fn.
func withConfig(c *cli.Context, fn func(*configured) error) error {
	if c.NArg() != 1 {
		return fmt.Errorf("%s wants one configuration, behind all flags: kafka-failover %s [flags] ./relay.yaml", c.Command.Name, c.Command.Name)
	}
	args := []string{"kafka-failover", "run", "--log.level", c.String("log.level"), "--set", "http.enabled=false"}
	if c.Bool("chilled") {
		args = append(args, "--chilled")
	}
	for _, flag := range []string{"set", "resources", "templates", "env-file"} {
		for _, v := range c.StringSlice(flag) {
			args = append(args, "--"+flag, v)
		}
	}
	seen := catcher{env: service.GlobalEnvironment().Clone()}
	if err := seen.register(); err != nil {
		return err
	}
	os.Stdout = os.Stderr // where Benthos logs; the report is alone on stdout
	err := errSeen
	_, runErr := service.RunCLIToCode(c.Context,
		service.CLIOptSetArgs(append(args, c.Args().First())...),
		service.CLIOptSetEnvironment(seen.env),
		service.CLIOptSetBinaryName("kafka-failover"),
		service.CLIOptSetProductName("kafka-failover"),
		service.CLIOptOnConfigParse(func(conf *service.ParsedConfig) error {
			if err = surroundings(conf); err != nil {
				return err
			}
			found, ferr := seen.find(c.Context, conf)
			if err = ferr; err == nil {
				err = fn(found)
			}
			return errSeen
		}),
	)
	if runErr != nil && !errors.Is(runErr, errSeen) {
		return runErr
	}
	return err
}

// catcher finds the kafka_failover components of a configuration without
// building any other.
type catcher struct {
	env             *service.Environment
	conf            *service.ParsedConfig
	inputs, outputs []caught
}

// caught is one component.
type caught struct {
	label              string
	conf               *service.ParsedConfig
	processors, unseen bool
}

// register replaces the plugins by ones that only note their configuration: it
// is how those in resource files are seen.
func (c *catcher) register() error {
	err1 := c.env.RegisterBatchInput(input.Name, input.Spec(), func(p *service.ParsedConfig, res *service.Resources) (service.BatchInput, error) {
		c.inputs = append(c.inputs, caught{label: res.Label(), conf: p})
		return idle{}, nil
	})
	err2 := c.env.RegisterBatchOutput(output.Name, output.Spec(), func(p *service.ParsedConfig, res *service.Resources) (service.BatchOutput, service.BatchPolicy, int, error) {
		c.outputs = append(c.outputs, caught{label: res.Label(), conf: p})
		return idle{}, service.BatchPolicy{}, 1, nil
	})
	return errors.Join(err1, err2)
}

// idle is a component that does nothing.
type idle struct{}

func (idle) Connect(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func (idle) Close(context.Context) error       { return nil }
func (idle) ReadBatch(ctx context.Context) (service.MessageBatch, service.AckFunc, error) {
	<-ctx.Done()
	return nil, nil, ctx.Err()
}
func (idle) WriteBatch(context.Context, service.MessageBatch) error { return service.ErrNotConnected }

// kind is what differs between the search for inputs and for outputs.
type kind struct {
	name, resources string
	spec            *service.ConfigSpec
	into            *[]caught
	has             func(string) bool
	build           func(context.Context, string) error
}

// find pairs the components that the configuration names.
func (c *catcher) find(ctx context.Context, conf *service.ParsedConfig) (*configured, error) {
	c.conf = conf
	res := conf.Resources()
	in := kind{input.Name, "input_resources", input.Spec(), &c.inputs, res.HasInput, func(ctx context.Context, label string) error {
		return res.AccessInput(ctx, label, func(*service.ResourceInput) {})
	}}
	out := kind{output.Name, "output_resources", output.Spec(), &c.outputs, res.HasOutput, func(ctx context.Context, label string) error {
		return res.AccessOutput(ctx, label, func(*service.ResourceOutput) {})
	}}
	err := c.collect(ctx, in, root(conf, "input"), false)
	if err == nil {
		err = c.collect(ctx, out, root(conf, "output"), false)
	}
	if err != nil {
		return nil, err
	}
	if len(c.inputs) == 0 {
		return nil, errors.New("the configuration has no kafka_failover input")
	}
	found := &configured{conf: conf}
	seen := map[string]bool{}
	for _, i := range c.inputs {
		r, err := c.pair(ctx, i, out, res)
		if err != nil {
			return nil, err
		}
		if seen[r.name] {
			return nil, fmt.Errorf("two kafka_failover inputs have the relay name %q: give each pair of input and output a `relay` name of its own", r.name)
		}
		seen[r.name] = true
		found.relays = append(found.relays, *r)
	}
	return found, nil
}

// collect adds the components of a kind below v, and has those built that are
// named as resources. processors: something around v has processors.
func (c *catcher) collect(ctx context.Context, k kind, v any, processors bool) error {
	switch x := v.(type) {
	case map[string]any:
		list, _ := x["processors"].([]any)
		processors = processors || len(list) > 0
		if fields, ok := x[k.name].(map[string]any); ok {
			return c.parsed(k, x, fields, processors)
		}
		if label, ok := x["resource"].(string); ok && k.has(label) {
			return c.resource(ctx, k, label, processors)
		}
		for name, y := range x {
			if name == "processors" {
				continue
			}
			if err := c.collect(ctx, k, y, processors); err != nil {
				return err
			}
		}
	case []any:
		for _, y := range x {
			if err := c.collect(ctx, k, y, processors); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *catcher) parsed(k kind, component, fields map[string]any, processors bool) error {
	text, err := yaml.Marshal(fields)
	if err != nil {
		return err
	}
	conf, err := k.spec.ParseYAML(string(text), c.env)
	if err != nil {
		return err
	}
	label, _ := component["label"].(string)
	*k.into = append(*k.into, caught{label: label, conf: conf, processors: processors})
	return nil
}

// resource has a resource built, whose kafka_failover component notes itself.
func (c *catcher) resource(ctx context.Context, k kind, label string, processors bool) error {
	before := len(*k.into)
	if err := k.build(ctx, label); err != nil {
		return err
	}
	unseen := true
	list, _ := root(c.conf, k.resources).([]any)
	for _, item := range list {
		if m, _ := item.(map[string]any); m["label"] == label {
			own, _ := m["processors"].([]any)
			processors, unseen = processors || len(own) > 0, false
		}
	}
	for i := before; i < len(*k.into); i++ {
		(*k.into)[i].processors, (*k.into)[i].unseen = processors, unseen
	}
	return nil
}

// pair finds the output of an input, as the relay itself would: by `relay`, or
// by a resource's label.
func (c *catcher) pair(ctx context.Context, in caught, k kind, res *service.Resources) (*configuredRelay, error) {
	relay, err := in.conf.FieldString("relay")
	if err != nil {
		return nil, err
	}
	if in.cached() {
		return cachedRelay(relay, in, res)
	}
	out, err := c.output(relay)
	if out == nil && err == nil && relay != "" && k.has(relay) {
		if err := c.resource(ctx, k, relay, false); err != nil {
			return nil, err
		}
		out, err = c.output(relay)
	}
	if err != nil {
		return nil, err
	}
	if out == nil {
		return nil, fmt.Errorf("no kafka_failover output belongs to the kafka_failover input (relay %q)", relay)
	}
	r := &configuredRelay{name: relay, processors: in.processors || out.processors, unseen: in.unseen || out.unseen}
	if r.in, err = input.New(in.conf, res); err != nil {
		return nil, err
	}
	r.out, err = output.New(out.conf, res)
	return r, err
}

// output is the one that answers to a relay name: one that is set up for
// messages of other inputs only if there is no other.
func (c *catcher) output(relay string) (*caught, error) {
	var own, others []*caught
	for i := range c.outputs {
		o := &c.outputs[i]
		name, err := o.conf.FieldString("relay")
		if err != nil || (name != relay && (relay == "" || o.label != relay)) {
			continue
		}
		if o.forOthers() {
			others = append(others, o)
		} else {
			own = append(own, o)
		}
	}
	switch {
	case len(own) > 1:
		return nil, fmt.Errorf("two kafka_failover outputs share one relay (%q): give each pair of input and output a `relay` name of its own", relay)
	case len(own) == 1:
		return own[0], nil
	case len(others) > 0:
		return others[len(others)-1], nil
	}
	return nil, nil
}

// forOthers tells whether an output is set up for messages of other inputs.
func (c *caught) forOthers() bool {
	for _, field := range []string{"topic", "key", "partition"} {
		if v, err := c.conf.FieldString(field); err == nil && v != "" {
			return true
		}
	}
	return false
}
