package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/kafka-failover/kafka-failover/internal/convert"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:  "convert",
		Usage: "Turn a kaf-relay configuration into a pipeline",
		Description: `Prints the pipeline that does what a kaf-relay (v1.4.0) TOML configuration says,
with comments where the two differ. Every key is mapped, or named as dropped.
Several files are merged in order, as kaf-relay does.

  kafka-failover convert ./config.toml > ./relay.yaml`,
		ArgsUsage: "CONFIG.toml...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "mode", Value: "failover", Usage: "single reads the first source only; kaf-relay's own default is single"},
			&cli.BoolFlag{Name: "stop-at-end", Usage: "as kaf-relay's flag"},
			&cli.StringSliceFlag{Name: "topic", Usage: "source:target[:partition], in place of the topics in the files"},
		},
		Action: func(c *cli.Context) error {
			mode := c.String("mode")
			if mode != "single" && mode != "failover" {
				return fmt.Errorf("--mode is %q: write single or failover", mode)
			}
			if c.NArg() == 0 {
				return errors.New("convert wants a kaf-relay configuration: kafka-failover convert ./config.toml")
			}
			var files [][]byte
			for _, name := range c.Args().Slice() {
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				files = append(files, b)
			}
			yaml, err := convert.TOML(convert.Options{Single: mode == "single", StopAtEnd: c.Bool("stop-at-end"), Topics: c.StringSlice("topic")}, files...)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(stdout, yaml)
			return err
		},
	}
}
