package main

import (
	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/input"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// cached tells whether an input keeps its positions in a cache: then no output of
// ours belongs to it.
func (c *caught) cached() bool {
	resume, err := c.conf.FieldString("resume")
	return err == nil && resume == "cache"
}

func cachedRelay(name string, in caught, res *service.Resources) (*configuredRelay, error) {
	i, err := input.New(in.conf, res)
	return &configuredRelay{name: name, in: i, processors: in.processors, unseen: in.unseen}, err
}

// target is what tells how far the relay has come.
func (r configuredRelay) target() relay.Target {
	if r.out == nil {
		return r.in.Target()
	}
	return r.out
}
