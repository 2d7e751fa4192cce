package kafkafailover_test

import (
	"context"
	"fmt"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	// This import brings the plugins into your own Benthos or Connect build.
	_ "github.com/kafka-failover/kafka-failover"
)

// The plugins work in any program that runs Benthos streams. Brokers here are
// in-process stand-ins.
func Example() {
	source, target := broker("source"), broker("target")
	defer source.Close()
	defer target.Close()
	produce(source, "first", "second", "third")

	b := service.NewStreamBuilder()
	err := b.SetYAML(fmt.Sprintf(`
input:
  kafka_failover:
    sources: [ { name: dc1, seed_brokers: [ %q ] } ]
    topics: [ orders ]
    stop_at_end: true
pipeline:
  processors:
    - mapping: root = content().uppercase()
output:
  kafka_failover:
    seed_brokers: [ %q ]
logger: { level: NONE }
`, source.ListenAddrs()[0], target.ListenAddrs()[0]))
	if err != nil {
		panic(err)
	}
	stream, err := b.Build()
	if err != nil {
		panic(err)
	}
	if err := stream.Run(context.Background()); err != nil {
		panic(err)
	}
	consume(target, 3)
	// Output:
	// FIRST
	// SECOND
	// THIRD
}

func broker(id string) *kfake.Cluster {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID(id), kfake.SeedTopics(1, "orders"))
	if err != nil {
		panic(err)
	}
	return c
}

func produce(c *kfake.Cluster, values ...string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		panic(err)
	}
	defer cl.Close()
	for _, v := range values {
		if err := cl.ProduceSync(context.Background(), kgo.StringRecord(v)).FirstErr(); err != nil {
			panic(err)
		}
	}
}

func consume(c *kfake.Cluster, n int) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("orders"))
	if err != nil {
		panic(err)
	}
	defer cl.Close()
	for n > 0 {
		cl.PollFetches(context.Background()).EachRecord(func(r *kgo.Record) {
			fmt.Println(string(r.Value))
			n--
		})
	}
}
