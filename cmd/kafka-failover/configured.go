package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/urfave/cli/v2"
	"gopkg.in/yaml.v3"

	"github.com/kafka-failover/kafka-failover/input"
	"github.com/kafka-failover/kafka-failover/output"
)

// configured is a configuration as `run` sees it: environment, secrets, --set
// and resource files applied.
type configured struct {
	conf   *service.ParsedConfig
	relays []configuredRelay
}

// configuredRelay is a kafka_failover input and the output it belongs to.
type configuredRelay struct {
	name string
	in   *input.Input
	out  *output.Output
	// inConf and outConf are their fields; before and behind the processors
	// of the input and output components.
	inConf, outConf *service.ParsedConfig
	processors      bool
}

// configFlags are the flags of `run` that shape a configuration.
func configFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "set", Aliases: []string{"s"}, Usage: "set a field of the configuration, by its path, as in run"},
		&cli.StringSliceFlag{Name: "resources", Aliases: []string{"r"}, Usage: "further files of resources, as in run"},
		&cli.StringSliceFlag{Name: "env-file", Aliases: []string{"e"}, Usage: "a file of environment variables, as in run"},
		&cli.StringFlag{Name: "log.level", Value: "error", Usage: "what to log besides the report: off, error, warn, info, debug, trace"},
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
	for _, flag := range []string{"set", "resources", "env-file"} {
		for _, v := range c.StringSlice(flag) {
			args = append(args, "--"+flag, v)
		}
	}
	seen := catcher{env: service.GlobalEnvironment().Clone()}
	if err := seen.register(); err != nil {
		return err
	}
	err := errSeen
	_, runErr := service.RunCLIToCode(c.Context,
		service.CLIOptSetArgs(append(args, c.Args().First())...),
		service.CLIOptSetEnvironment(seen.env),
		service.CLIOptSetBinaryName("kafka-failover"),
		service.CLIOptSetProductName("kafka-failover"),
		service.CLIOptOnConfigParse(func(conf *service.ParsedConfig) error {
			if err = onConfig(conf); err != nil {
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
	env     *service.Environment
	inputs  []caught
	outputs []caught
}

// caught is one component.
type caught struct {
	label      string
	conf       *service.ParsedConfig
	processors bool
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

// find pairs the components that the configuration names.
func (c *catcher) find(ctx context.Context, conf *service.ParsedConfig) (*configured, error) {
	res := conf.Resources()
	if err := c.collect(root(conf, "input"), input.Name, input.Spec(), &c.inputs, func(label string) error {
		return res.AccessInput(ctx, label, func(*service.ResourceInput) {})
	}); err != nil {
		return nil, err
	}
	if err := c.collect(root(conf, "output"), output.Name, output.Spec(), &c.outputs, func(label string) error {
		return res.AccessOutput(ctx, label, func(*service.ResourceOutput) {})
	}); err != nil {
		return nil, err
	}
	if len(c.inputs) == 0 {
		return nil, errors.New("the configuration has no kafka_failover input")
	}
	found := &configured{conf: conf}
	for _, in := range c.inputs {
		r, err := c.pair(ctx, in, res)
		if err != nil {
			return nil, err
		}
		found.relays = append(found.relays, *r)
	}
	return found, nil
}

// collect adds the components of a type below v, and has those built that are
// named as resources.
func (c *catcher) collect(v any, name string, spec *service.ConfigSpec, into *[]caught, access func(string) error) error {
	switch x := v.(type) {
	case map[string]any:
		if fields, ok := x[name].(map[string]any); ok {
			text, err := yaml.Marshal(fields)
			if err != nil {
				return err
			}
			parsed, err := spec.ParseYAML(string(text), c.env)
			if err != nil {
				return err
			}
			label, _ := x["label"].(string)
			_, processors := x["processors"]
			*into = append(*into, caught{label, parsed, processors})
			return nil
		}
		if label, ok := x["resource"].(string); ok {
			return access(label)
		}
		for _, y := range x {
			if err := c.collect(y, name, spec, into, access); err != nil {
				return err
			}
		}
	case []any:
		for _, y := range x {
			if err := c.collect(y, name, spec, into, access); err != nil {
				return err
			}
		}
	}
	return nil
}

// pair finds the output of an input, as the relay itself would: by `relay`, by
// a resource's label, or as the only one.
func (c *catcher) pair(ctx context.Context, in caught, res *service.Resources) (*configuredRelay, error) {
	relay, err := in.conf.FieldString("relay")
	if err != nil {
		return nil, err
	}
	out, ok := c.output(relay)
	if !ok && relay != "" && res.HasOutput(relay) {
		if err := res.AccessOutput(ctx, relay, func(*service.ResourceOutput) {}); err != nil {
			return nil, err
		}
		out, ok = c.output(relay)
	}
	if !ok {
		return nil, fmt.Errorf("no kafka_failover output belongs to the kafka_failover input (relay %q)", relay)
	}
	r := &configuredRelay{name: relay, inConf: in.conf, outConf: out.conf, processors: in.processors || out.processors}
	if r.in, err = input.New(in.conf, res); err != nil {
		return nil, err
	}
	r.out, err = output.New(out.conf, res)
	return r, err
}

func (c *catcher) output(relay string) (caught, bool) {
	for _, o := range c.outputs {
		name, err := o.conf.FieldString("relay")
		if err == nil && (name == relay || (relay != "" && o.label == relay)) {
			return o, true
		}
	}
	return caught{}, false
}
