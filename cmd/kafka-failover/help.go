package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// describe puts this product's own words where Benthos' help has its.
func describe() {
	t := cli.AppHelpTemplate
	t = strings.Replace(t, `{{template "helpNameTemplate" .}}`,
		"kafka-failover - relays Kafka topics from a pool of identical source clusters to one target", 1)
	t = strings.Replace(t, `{{template "descriptionTemplate" .}}`, `A Benthos command line with the kafka_failover input and output built in. It
   reads topics from a healthy source cluster, runs them through any Benthos
   processors, and writes them to the target in order, resuming exactly where
   the target stands.

     kafka-failover run ./relay.yaml
     kafka-failover lint ./relay.yaml
     kafka-failover list inputs
     kafka-failover create kafka_failover/mapping/kafka_failover > ./relay.yaml`, 1)
	cli.AppHelpTemplate = t
}
