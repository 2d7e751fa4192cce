package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// peers are the others who copy topics. They are slower, and get fewer records;
// what `make bench-peers` builds or fetches is expected in bench/bin and
// bench/mirrormaker/libs.
func peers() []*contender {
	return []*contender{
		{name: "MirrorMaker 2 (Kafka 4.1.0)", shape: plain.of(1_000_000), start: mirrorMaker, behind: 4, sameName: true, cleanUp: forgetMirrorMaker},
		{name: "Connect 4.105.0 redpanda, tuned", shape: plain.of(1_000_000), behind: 6, start: connect(connectTuned)},
		{name: "Connect 4.105.0 redpanda, tuned, memory aside", shape: plain.of(1_000_000), start: connect(connectLarge)},
		{name: "Connect 4.105.0 redpanda, defaults", shape: plain.of(100_000), behind: 6, start: connect(connectDefaults), tied: byKey},
		{name: "kaf-relay 1.4.0", shape: plain.of(300_000), behind: 15, start: kafRelay, tied: byKey},
	}
}

// mirrorMaker is given larger batches than its defaults, and a task for each
// core.
const mirrorMakerProperties = `
clusters = src, dst
src.bootstrap.servers = %s
dst.bootstrap.servers = %s
src->dst.enabled = true
src->dst.topics = %s
dst->src.enabled = false
tasks.max = 2
replication.policy.class = org.apache.kafka.connect.mirror.IdentityReplicationPolicy
replication.factor = 1
checkpoints.topic.replication.factor = 1
heartbeats.topic.replication.factor = 1
offset-syncs.topic.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
config.storage.replication.factor = 1
emit.heartbeats.enabled = false
emit.checkpoints.enabled = false
sync.topic.acls.enabled = false
src.consumer.auto.offset.reset = earliest
src.consumer.max.poll.records = 8192
src.consumer.fetch.max.bytes = 16777216
dst.producer.linger.ms = 5
dst.producer.batch.size = 1048576
dst.producer.buffer.memory = 67108864
dst.producer.max.request.size = 4194304
dst.producer.compression.type = snappy
`

func mirrorMaker(r *round) (*exec.Cmd, error) {
	libs, err := mirrorMakerLibs()
	if err != nil {
		return nil, err
	}
	file, err := r.write("mm2.properties", fmt.Sprintf(mirrorMakerProperties, r.source, r.target, r.from))
	if err != nil {
		return nil, err
	}
	kafka, err := kafkatest.Libs()
	if err != nil {
		return nil, err
	}
	return quiet(r, exec.Command("java", "-Xms256m", "-Xmx2g", "-Dlog4j2.configurationFile="+filepath.Join(kafka, "..", "log4j2.yaml"),
		"-cp", filepath.Join(libs, "*"), "org.apache.kafka.connect.mirror.MirrorMaker", file))
}

func mirrorMakerLibs() (string, error) {
	libs := filepath.Join("mirrormaker", "libs")
	if jars, _ := filepath.Glob(filepath.Join(libs, "connect-mirror-*.jar")); len(jars) == 0 {
		return "", errors.New("MirrorMaker's jars are missing: run `make bench-peers`")
	}
	return libs, nil
}

// forgetMirrorMaker removes its memory of where it stood.
func forgetMirrorMaker(r *round) error {
	var failed error
	for _, c := range []*kafkatest.Cluster{r.src, r.dst} {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
		if err != nil {
			return err
		}
		defer cl.Close()
		adm := kadm.NewClient(cl)
		topics, err := adm.ListTopics(context.Background())
		if err != nil {
			return err
		}
		for _, t := range topics.Names() {
			if strings.HasPrefix(t, "mm2-") || t == "heartbeats" {
				_, err := adm.DeleteTopic(context.Background(), t)
				failed = errors.Join(failed, err)
			}
		}
	}
	return failed
}

const connectDefaults = `
http: { enabled: false }
logger: { level: WARN }
input:
  redpanda:
    seed_brokers: [ %q ]
    topics: [ %s ]
    consumer_group: %s
output:
  redpanda:
    seed_brokers: [ %q ]
    topic: %s
    key: ${! metadata("kafka_key") }
`

var (
	// connectTuned keeps order and partitions, and to the memory that the relay has
	// to keep to.
	connectTuned = fmt.Sprintf(connectOrdered, "256KiB", "1MiB")
	// connectLarge takes three times the memory.
	connectLarge = fmt.Sprintf(connectOrdered, "4MiB", "16MiB")
)

const connectOrdered = `
http: { enabled: false }
logger: { level: WARN }
input:
  redpanda:
    seed_brokers: [ %%q ]
    topics: [ %%s ]
    consumer_group: %%s
    fetch_max_bytes: 16MiB
    max_yield_batch_bytes: %s
    partition_buffer_bytes: %s
output:
  redpanda:
    seed_brokers: [ %%q ]
    topic: %%s
    key: ${! metadata("kafka_key") }
    partitioner: manual
    partition: ${! metadata("kafka_partition") }
    timestamp_ms: ${! metadata("kafka_timestamp_ms") }
    max_in_flight: 16
`

func connect(yaml string) func(*round) (*exec.Cmd, error) {
	return func(r *round) (*exec.Cmd, error) {
		file, err := r.write(r.into+".yaml", fmt.Sprintf(yaml, r.source, r.from, r.into, r.target, r.into))
		if err != nil {
			return nil, err
		}
		return quiet(r, exec.Command(filepath.Join("bin", "connect"), "run", file))
	}
}

// kafRelayTOML has the values of kaf-relay's sample.
const kafRelayTOML = `
[app]
log_level = "error"
metrics_server_addr = "127.0.0.1:%d"

[source_pool]
initial_offset = "start"
healthcheck_interval = "3s"
offset_lag_threshold = 1000
max_retries = -1
backoff_enable = true
backoff_min = "2s"
backoff_max = "10s"
request_timeout = "100ms"

[[sources]]
name = "node1"
servers = [%q]
session_timeout = "6s"
enable_auth = false
max_wait_time = "10ms"
max_failovers = -1

[target]
name = "node2"
servers = [%q]
enable_auth = false
enable_idempotency = true
commit_ack_type = "cluster"
flush_frequency = "20ms"
session_timeout = "6s"
max_retries = -1
flush_batch_size = 1000
batch_size = 1000
buffer_size = 100000
max_message_bytes = 10000000
backoff_enable = true
backoff_min = "2s"
backoff_max = "10s"
request_timeout = "100ms"
`

func kafRelay(r *round) (*exec.Cmd, error) {
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		return nil, err
	}
	file, err := r.write(r.into+".toml", fmt.Sprintf(kafRelayTOML, ports[0], r.source, r.target))
	if err != nil {
		return nil, err
	}
	return quiet(r, exec.Command(filepath.Join("bin", "kaf-relay"), "--config", file, "--mode", "single", "--topic", r.from+":"+r.into))
}

// quiet has a peer's output in a file, for the case that it fails.
func quiet(r *round, cmd *exec.Cmd) (*exec.Cmd, error) {
	if _, err := os.Stat(cmd.Path); err != nil {
		return nil, fmt.Errorf("%s is missing: run `make bench-peers`", cmd.Path)
	}
	log, err := os.Create(filepath.Join(r.dir, r.into+".log"))
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, err
}
