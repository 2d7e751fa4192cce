// Package output is the kafka_failover output: it writes relayed batches in the
// order in which their records were read, remembers on the target how far it
// has come, and answers the input's one question, where the target stands.
package output

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

const (
	fieldSeedBrokers     = "seed_brokers"
	fieldClientID        = "client_id"
	fieldRelay           = "relay"
	fieldDelivery        = "delivery"
	fieldRelayID         = "relay_id"
	fieldCommitInterval  = "commit_interval"
	fieldTxnTimeout      = "transaction_timeout"
	fieldProgressTopic   = "progress_topic"
	fieldTopic           = "topic"
	fieldKey             = "key"
	fieldPartition       = "partition"
	fieldAcks            = "acks"
	fieldIdempotent      = "idempotent_write"
	fieldCompression     = "compression"
	fieldLinger          = "linger"
	fieldMaxMessageBytes = "max_message_bytes"
	fieldMaxBuffered     = "max_buffered_records"
	fieldMaxInFlight     = "max_in_flight"
	fieldMetadataMaxAge  = "metadata_max_age"
	fieldConnIdleTimeout = "conn_idle_timeout"
	fieldReplication     = "replication_factor"
	fieldCreateTopics    = "create_topics"
	fieldCreateParts     = "create_partitions"
	fieldOriginHeader    = "origin_header"
	fieldTimestampHeader = "timestamp_header"
	fieldHeaderMetadata  = "header_metadata"
	fieldOnError         = "on_error"
	fieldDeadLetter      = "dead_letter_topic"
)

// Spec is the configuration of the output.
func Spec() *service.ConfigSpec {
	return service.NewConfigSpec().
		Categories("Services").
		Summary("Writes what a `kafka_failover` input reads to one target Kafka cluster: in order, pipelined, resumed exactly where the target stands.").
		Description(`
Batches of a kafka_failover input are written in the order in which their records were read, whatever `+"`pipeline.threads`"+` is, with several batches under way. How far the target has come is kept in a small compacted topic on the target itself (`+"`progress_topic`"+`) and in a header of each record (`+"`origin_header`"+`), so nothing needs to be stored beside the relay.

Fed by any other input it is an ordinary Kafka output with `+"`topic`, `key` and `partition`"+` interpolated.`).
		Fields(
			service.NewStringListField(fieldSeedBrokers).
				Description("Brokers of the target cluster to connect to first. An item may hold several, separated by commas. Kafka: bootstrap.servers.").
				Example([]string{"target-a:9092", "target-b:9092"})).
		Fields(kafka.SecurityFields()...).
		Fields(
			service.NewStringField(fieldClientID).Default("kafka-failover").Advanced().
				Description("How the relay names itself to brokers. Kafka: client.id."),
			service.NewStringField(fieldRelay).Default("").Advanced().
				Description("Pairs this output with the input of the same `relay`, where a stream has several pairs. Empty: the input of this stream."),
			kafka.EnumField(fieldDelivery, atLeastOnce, exactlyOnce).Default(atLeastOnce).
				Description("`at_least_once`: nothing is lost; a killed or failed write may repeat up to one window of records, in their order. `exactly_once`: records and positions are committed together in transactions, and a reader with isolation.level=read_committed sees each record once. It needs Kafka 4.0 on the target (transaction.version 2) and a `relay_id`."),
			service.NewStringField(fieldRelayID).Default("").
				Description("Names this relay in marks and headers, and with `exactly_once` its transactions: letters, digits, '.', '_' and '-', at most 128. Empty: the target's cluster ID. Two relays into one cluster that share topics each need their own; with `exactly_once` any two."),
			service.NewDurationField(fieldCommitInterval).Default("200ms").Advanced().
				Description("With `exactly_once`: records of one interval share a transaction. It is also committed when half the window is full, and at once when nothing more is on its way. Readers of committed records see them late by up to this, and by the commit itself. At most half of `transaction_timeout`."),
			service.NewDurationField(fieldTxnTimeout).Default("60s").Advanced().
				Description("With `exactly_once`: how long the target waits for a relay that has died before it aborts its transaction; readers of committed records wait with it, unless the next instance starts before. At most the brokers' transaction.max.timeout.ms. Kafka: transaction.timeout.ms."),
			service.NewStringField(fieldProgressTopic).Default(relay.ProgressTopic).Advanced().
				Description("Topic of the target that keeps the marks: 1 partition, cleanup.policy=compact, segment.bytes=16777216. Created if missing."),
			service.NewInterpolatedStringField(fieldTopic).Default("").
				Description("Topic for messages that no kafka_failover input made. Relayed ones go where the input's `topics` says and refuse this field, but with `exactly_once`, where it may send each record elsewhere."),
			service.NewInterpolatedStringField(fieldKey).Default("").
				Description("Record key for messages that no kafka_failover input made, and with `exactly_once` for relayed ones. Empty: no key, and the source's for relayed ones."),
			service.NewInterpolatedStringField(fieldPartition).Default("").Advanced().
				Description("Partition number for messages that no kafka_failover input made, and with `exactly_once` for relayed ones. It must give a number for each. Not set: by key, as Kafka's default partitioner does, and as the route says for relayed ones whose `topic` is not set."),
			kafka.EnumField(fieldAcks, "all", "leader", "none").Default("all").Advanced().
				Description("Whose acknowledgement counts as written. Kafka: acks. `leader` and `none` need `idempotent_write: false` and give up the promise that nothing is lost."),
			service.NewBoolField(fieldIdempotent).Default(true).Advanced().
				Description("Write idempotently. Kafka: enable.idempotence. false gives up the promise that order is kept and nothing is written twice by retries."),
			kafka.EnumField(fieldCompression, "snappy", "none", "gzip", "lz4", "zstd").Default("snappy").
				Description("Compression of record batches. Kafka: compression.type."),
			service.NewDurationField(fieldLinger).Default("0s").Advanced().
				Description("How long a record batch waits for more records before it is sent. Kafka: linger.ms."),
			service.NewStringField(fieldMaxMessageBytes).Default("1MiB").Advanced().
				Description("Largest record batch to send, before compression, `origin_header` included; at most the target topic's max.message.bytes. Kafka: max.request.size."),
			service.NewIntField(fieldMaxBuffered).Default(100_000).Advanced().
				Description("Records handed to the producer and not yet acknowledged, above which further batches wait; a single batch may hold more."),
			service.NewIntField(fieldMaxInFlight).Default(16).Advanced().
				Description("Times the input's `batch_max_bytes`, this is the window: the most bytes read and not yet acknowledged."),
			service.NewDurationField(fieldMetadataMaxAge).Default("30s").Advanced().
				Description("Age at which topic metadata is asked for again. Kafka: metadata.max.age.ms."),
			service.NewDurationField(fieldConnIdleTimeout).Default("20s").Advanced().
				Description("Idle time after which a connection is closed. Kafka: connections.max.idle.ms."),
			service.NewBoolField(fieldCreateTopics).Default(false).
				Description("Create target topics that are missing, with the source topic's partition count and these of its settings: "+mirroredSettings()+". A missing `dead_letter_topic` is created too, with one partition. Needs the right to create topics, and to read the source's topic configurations. false: the relay stops and prints the command that creates them."),
			service.NewBoolField(fieldCreateParts).Default(false).
				Description("Where a source topic has more partitions than its target topic, at start or later, add them there; with `auto` nothing is added, since keys would change their partitions. false: the relay stops and prints the command that adds them."),
			service.NewIntField(fieldReplication).Default(-1).Advanced().
				Description("Replication factor of topics that this output creates, the progress topic among them; -1: the broker's default."),
			service.NewStringField(fieldOriginHeader).Default("_origin").Advanced().
				Description("Header that ties a target record to its source record. May be empty only with `resume: watermark` or `delivery: exactly_once`."),
			service.NewStringField(fieldTimestampHeader).Default("").Advanced().
				Description("Header to write the source timestamp to, in nanoseconds, 8 bytes big-endian. `_t` is what kaf-relay writes. Empty: none."),
			service.NewMetadataFilterField(fieldHeaderMetadata).Optional().Advanced().
				Description("Other metadata to write as headers. Source headers are kept anyway, and follow the metadata of their name where the pipeline changed it."),
			kafka.EnumField(fieldOnError, onErrorStop, onErrorDeadLetter, onErrorDrop).Default(onErrorStop).
				Description("What to do with a relayed message that a processor failed on, or a record the target will never take: `stop` the relay; `dead_letter`: write the source record to `dead_letter_topic` and go on; or `drop` it. Both are counted, and one a second is named in the log."),
			service.NewStringField(fieldDeadLetter).Default("").
				Description("With `on_error: dead_letter`: the topic of the target for such records, in the order of their source partition, with `exactly_once` in the same transaction. A letter has key, value and headers of the source record, the header of `origin_header`, and `_dead_letter_error`, `_dead_letter_component` (label, name and path of the processor, or this output) and `_dead_letter_timestamp_ms`; its own timestamp is the time of writing. The value of a record that was too large is left out, and `_dead_letter_omitted_bytes` says how long it was. It must exist, with `cleanup.policy=delete`, unless `create_topics` is set."),
		).
		LintRule(lintRule)
}

// lintRule says what lint can see without building the output.
const lintRule = `root = match {
  !this.exists("seed_brokers") || (this.seed_brokers.type() == "array" && this.seed_brokers.length() == 0) => [ "seed_brokers is empty: name at least one broker of the target, such as [ localhost:9092 ]" ]
  [ "leader", "none" ].contains(this.acks.or("all")) && this.idempotent_write.or(true) => [ "acks: " + this.acks + " needs idempotent_write: false, which gives up the promise that nothing is lost; write acks: all" ]
  this.relay_id.or("") != "" && !this.relay_id.string().re_match("^[a-zA-Z0-9._-]{1,128}$") => [ "relay_id may hold letters, digits, '.', '_' and '-', at most 128 of them" ]
  !this.progress_topic.or("x").string().re_match("^[a-zA-Z0-9._-]{1,249}$") => [ "progress_topic is not a topic name: letters, digits, '.', '_' and '-', at most 249" ]
  !this.max_message_bytes.or("1MiB").string().re_match("^[0-9.]+ *([KkMmGg][Ii]?)?[Bb]?$") => [ "max_message_bytes is a size: write a number and a unit, such as 1MiB" ]
  this.delivery.or("") == "exactly_once" && this.relay_id.or("") == "" => [ "delivery: exactly_once needs a relay_id: it names the relay's transactions" ]
  this.delivery.or("") == "exactly_once" && (this.acks.or("all") != "all" || !this.idempotent_write.or(true)) => [ "delivery: exactly_once needs acks: all and idempotent_write: true" ]
  this.on_error.or("") == "dead_letter" && this.dead_letter_topic.or("") == "" => [ "on_error: dead_letter needs a dead_letter_topic: name a topic of the target" ]
  this.on_error.or("") != "dead_letter" && this.dead_letter_topic.or("") != "" => [ "dead_letter_topic is only used with on_error: dead_letter" ]
  [ "linger", "metadata_max_age", "conn_idle_timeout", "commit_interval", "transaction_timeout" ].any(f -> !this.get(f).or("1s").string().re_match("^([0-9.]+(ns|us|µs|ms|s|m|h))+$")) => [ "linger, metadata_max_age, conn_idle_timeout, commit_interval and transaction_timeout are times: write a number and a unit, such as 500ms or 30s" ]
  this.replication_factor.or(-1).number(0) < 1 && this.replication_factor.or(-1).number(0) != -1 => [ "replication_factor is %v and must be at least 1, or -1 for the broker's default".format(this.replication_factor) ]
  [ "max_in_flight", "max_buffered_records" ].any(f -> this.get(f).or(1).number(0) < 1) => [ "max_in_flight and max_buffered_records must be at least 1" ]
}`

// The values of the field on_error.
const (
	onErrorStop       = "stop"
	onErrorDeadLetter = "dead_letter"
	onErrorDrop       = "drop"
)

// The values of the field delivery.
const (
	atLeastOnce = "at_least_once"
	exactlyOnce = "exactly_once"
)

var topicPattern = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

var relayIDPattern = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,128}$`)

type config struct {
	conn     kafka.Conn
	producer kafka.Producer
	relay    string
	relayID  string
	// exactly: records and marks are committed together.
	exactly        bool
	commitInterval time.Duration
	progressTopic  string
	replication    int16
	// createTopics, createPartitions: what the target lacks is made.
	createTopics, createPartitions bool
	topic                          *service.InterpolatedString
	key                            *service.InterpolatedString
	partition                      *service.InterpolatedString
	hasTopic                       bool
	hasKey                         bool
	hasPartition                   bool
	maxBuffered                    int
	maxInFlight                    int
	originHeader                   string
	rules                          record.Rules
	onError                        string
	// deadLetterTopic is empty but with onErrorDeadLetter.
	deadLetterTopic string
	logger          *service.Logger
}

var compressions = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

var acks = map[string]kgo.Acks{"all": kgo.AllISRAcks(), "leader": kgo.LeaderAck(), "none": kgo.NoAck()}

// parse reads the configuration, once. Every wrong value gets one line.
func parse(p *service.ParsedConfig, logger *service.Logger) (config, error) {
	r := kafka.NewFields(p)
	c := config{
		conn: kafka.Conn{
			Name:            "target",
			SeedBrokers:     r.Brokers(fieldSeedBrokers),
			ClientID:        r.String(fieldClientID),
			MetadataMaxAge:  r.Duration(fieldMetadataMaxAge, 10*time.Millisecond),
			ConnIdleTimeout: r.Duration(fieldConnIdleTimeout, time.Second),
			Security:        r.Security(),
			Logger:          logger,
		},
		producer: kafka.Producer{
			Idempotent:      r.Bool(fieldIdempotent),
			Acks:            acks[r.String(fieldAcks)],
			Compression:     compressions[r.String(fieldCompression)],
			Linger:          r.Duration(fieldLinger, 0),
			MaxMessageBytes: int32(r.Bytes(fieldMaxMessageBytes, 1024, 512<<20)),
		},
		relay:   r.String(fieldRelay),
		relayID: r.String(fieldRelayID),

		exactly:        r.String(fieldDelivery) == exactlyOnce,
		commitInterval: r.Duration(fieldCommitInterval, time.Millisecond),
		progressTopic:  r.String(fieldProgressTopic),
		replication:    int16(r.Int(fieldReplication, -1, 32767)),
		createTopics:   r.Bool(fieldCreateTopics), createPartitions: r.Bool(fieldCreateParts),
		maxBuffered:     r.Int(fieldMaxBuffered, 1, 1<<30),
		maxInFlight:     r.Int(fieldMaxInFlight, 1, 1024),
		originHeader:    r.String(fieldOriginHeader),
		rules:           record.Rules{TimestampHeader: r.String(fieldTimestampHeader)},
		onError:         r.String(fieldOnError),
		deadLetterTopic: r.String(fieldDeadLetter),
		logger:          logger,
	}
	if timeout := r.Duration(fieldTxnTimeout, time.Second); c.exactly {
		c.producer.TransactionalID, c.producer.TransactionTimeout = transactionalID(c.relayID), timeout
	}
	c.topic, c.hasTopic = r.Interpolated(fieldTopic)
	c.key, c.hasKey = r.Interpolated(fieldKey)
	c.partition, c.hasPartition = r.Interpolated(fieldPartition)
	if p.Contains(fieldHeaderMetadata) {
		var err error
		c.rules.Extra, err = p.FieldMetadataFilter(fieldHeaderMetadata)
		r.Note(err)
	}
	r.Note(kafka.Validate(c.producer.Opts(c.conn)))
	if err := r.Err(); err != nil {
		return c, err
	}
	return c, c.check(r.String(fieldAcks))
}

// transactionalID names the transactions of a relay's one producer.
func transactionalID(relayID string) string { return relayID + ".0" }

func (c config) check(acks string) error {
	switch {
	case c.relayID != "" && !relayIDPattern.MatchString(c.relayID):
		return fmt.Errorf("relay_id %q may hold letters, digits, '.', '_' and '-', at most 128 of them", c.relayID)
	case c.exactly && c.relayID == "":
		return errors.New("delivery: exactly_once needs a relay_id: it names the relay's transactions")
	case c.exactly && (acks != "all" || !c.producer.Idempotent):
		return errors.New("delivery: exactly_once needs acks: all and idempotent_write: true")
	case c.exactly && 2*c.commitInterval > c.producer.TransactionTimeout:
		return fmt.Errorf("commit_interval is %s and transaction_timeout %s: the first must be at most half of the second, since the target aborts a transaction that is open for longer", c.commitInterval, c.producer.TransactionTimeout)
	case acks != "all" && c.producer.Idempotent:
		return fmt.Errorf("acks: %s needs idempotent_write: false, which gives up the promise that nothing is lost; write acks: all", acks)
	case c.onError == onErrorDeadLetter && c.deadLetterTopic == "":
		return errors.New("on_error: dead_letter needs a dead_letter_topic: name a topic of the target")
	case c.onError != onErrorDeadLetter && c.deadLetterTopic != "":
		return errors.New("dead_letter_topic is only used with on_error: dead_letter")
	case c.deadLetterTopic != "" && !topicPattern.MatchString(c.deadLetterTopic):
		return fmt.Errorf("dead_letter_topic %q is not a topic name: letters, digits, '.', '_' and '-', at most 249", c.deadLetterTopic)
	case c.deadLetterTopic == c.progressTopic:
		return fmt.Errorf("dead_letter_topic is %q, which is the progress_topic: records there would be taken for marks", c.deadLetterTopic)
	case c.replication == 0:
		return errors.New("replication_factor is 0 and must be at least 1, or -1 for the broker's default")
	case !topicPattern.MatchString(c.progressTopic):
		return fmt.Errorf("progress_topic %q is not a topic name: letters, digits, '.', '_' and '-', at most 249", c.progressTopic)
	}
	return nil
}
