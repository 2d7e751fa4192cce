package main

import (
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/kafka-failover/kafka-failover/internal/demo"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "Watch a source die under load and nothing get lost, on brokers inside this process",
		Description: `Starts two source brokers and a target inside this process, relays between
them through a filter, kills the source that is read, and compares source and
target record by record. It needs nothing and ends by itself within 20 seconds.
The exit code is 1 if source and target differ.`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "keep", Usage: "leave the brokers up and say how to look at them"}},
		Action: func(c *cli.Context) error {
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return demo.Run(ctx, demo.Options{Out: stdout, Keep: c.Bool("keep")})
		},
	}
}
