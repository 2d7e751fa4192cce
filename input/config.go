// Package input is the kafka_failover input: it reads source topics at exactly
// the offsets where the target stands, hands out ticketed batches, and moves a
// position only when what it read was acknowledged.
package input

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

const (
	fieldSources                = "sources"
	fieldName                   = "name"
	fieldSeedBrokers            = "seed_brokers"
	fieldClientID               = "client_id"
	fieldTopics                 = "topics"
	fieldPatterns               = "regexp_topics_include"
	fieldRelay                  = "relay"
	fieldStartOffset            = "start_offset"
	fieldResume                 = "resume"
	fieldIsolation              = "transaction_isolation_level"
	fieldStopAtEnd              = "stop_at_end"
	fieldMetadata               = "metadata"
	fieldInitialSource          = "initial_source"
	fieldHealth                 = "health"
	fieldInterval               = "interval"
	fieldTimeout                = "timeout"
	fieldUnhealthyAfter         = "unhealthy_after"
	fieldHealthyAfter           = "healthy_after"
	fieldLagThreshold           = "lag_threshold"
	fieldCooldown               = "cooldown"
	fieldStallTimeout           = "stall_timeout"
	fieldFailback               = "failback"
	fieldOnGap                  = "on_gap"
	fieldOnDivergence           = "on_divergence"
	fieldOnUnverified           = "on_unverified"
	fieldOnFatal                = "on_fatal"
	fieldRetry                  = "retry"
	fieldMaxRetries             = "max_retries"
	fieldInitialInterval        = "initial_interval"
	fieldMaxInterval            = "max_interval"
	fieldFetchMaxBytes          = "fetch_max_bytes"
	fieldFetchMaxPartitionBytes = "fetch_max_partition_bytes"
	fieldFetchMaxWait           = "fetch_max_wait"
	fieldMetadataMaxAge         = "metadata_max_age"
	fieldConnIdleTimeout        = "conn_idle_timeout"
	fieldRackID                 = "rack_id"
	fieldBatchMaxRecords        = "batch_max_records"
	fieldBatchMaxBytes          = "batch_max_bytes"
)

// Spec is the configuration of the input.
func Spec() *service.ConfigSpec {
	return service.NewConfigSpec().
		Categories("Services").
		Summary("Reads topics of a pool of identical source Kafka clusters, always from a good one, for a `kafka_failover` output, resuming exactly where the output's target stands; or for any other output, with positions in a cache.").
		Description(`
All sources are probed; when the one that is read dies, hangs, lags or lies, reading goes on at the same offsets of another one, once that is known to hold the same records.

Each batch holds records of many partitions in the order of reading; the kafka_failover output writes batches in that order whatever happens between, and no position moves before the target has acknowledged. Nothing is stored at the source: no consumer group is used.

With `+"`metadata: standard`"+` each message carries kafka_key, kafka_topic, kafka_partition, kafka_offset, kafka_timestamp_ms, kafka_tombstone_message, kafka_source and the record's headers. Key and headers of a record reach the target byte for byte unless the pipeline changes the metadata of that name.`).
		Fields(
			service.NewObjectListField(fieldSources, sourceFields()...).Description("Source clusters that hold the same records at the same offsets. One of them is read at a time, see `initial_source` and `health`."),
			service.NewStringListField(fieldTopics).Default([]any{}).
				Description("Routes, each `source[:target[:partition|auto]]`. `orders` keeps name and partitions; `payments:copy` changes the name; `audit:all:0` writes every partition into partition 0; `clicks:clicks:auto` chooses the partition from the key as Kafka's default partitioner does (murmur2)."),
			service.NewStringListField(fieldPatterns).Default([]any{}).
				Description("Regular expressions (RE2). Every source topic whose whole name one of them matches is relayed under its own name, besides those in `topics`, which go where these say: never internal ones, names that begin with `__`, progress topics or the `dead_letter_topic`. One that appears while the relay runs is relayed from offset 0, within `metadata_max_age`; one that is gone from every source is no longer relayed. See `create_topics` of the output.").
				Example([]string{"orders\\..*", "payments"}),
			service.NewStringField(fieldRelay).Default("").Advanced().
				Description("Pairs this input with the output of the same `relay`, or with the output resource of that label, where a stream has several pairs."),
			service.NewStringField(fieldStartOffset).Default("earliest").
				Description("Where to begin a partition that the target knows nothing of: `earliest`, `latest`, or a time such as 2026-01-31T00:00:00Z. Kafka: auto.offset.reset."),
			kafka.EnumField(fieldResume, string(position.ResumeAuto), string(position.ResumeStart), string(position.ResumeWatermark), string(position.ResumeCache)).Default(string(position.ResumeAuto)).
				Description("How to find where the target stands. `auto`: its marks and what is proven behind them, for a target without marks its last record if that equals the source's. `start`: partitions without a mark begin at `start_offset`, whatever the target holds. `watermark`: the target's end offset is the next source offset, without marks or headers; only where every record keeps its offset. `cache`: for outputs that are not Kafka; positions stand in `resume_cache`, and a batch that the output refuses is read again."),
			kafka.EnumField(fieldIsolation, "read_committed", "read_uncommitted").Default("read_committed").Advanced().
				Description("Whether records of open and aborted transactions are read. Kafka: isolation.level."),
			service.NewBoolField(fieldStopAtEnd).Default(false).
				Description("End once everything that was in the source at start has been relayed and acknowledged. The exit code is 0, or 1 after a fatal stop."),
			kafka.EnumField(fieldMetadata, "standard", "none").Default("standard").
				Description("`standard`: metadata as Connect's Kafka inputs set it. `none`: none, which is fastest; key and headers still reach the target."),
			kafka.EnumField(fieldInitialSource, "first", "random").Default("first").
				Description("Which healthy source is read first: the `first` of the list, or a `random` one."),
			service.NewObjectField(fieldHealth,
				service.NewDurationField(fieldInterval).Default("1s").Description("Time between two probes of a source. A connection error has it probed at once, at most every 100 ms."),
				service.NewDurationField(fieldTimeout).Default("1s").Description("Longest wait for the answers to a probe: metadata of the topics, and from each leader the ends of its partitions. Three times as long until a source has first answered."),
				service.NewIntField(fieldUnhealthyAfter).Default(2).Description("Failed probes in a row that make a source unhealthy. A failed probe is repeated after 100 ms."),
				service.NewIntField(fieldHealthyAfter).Default(3).Description("Good probes in a row, an interval apart, that make an unhealthy source healthy again."),
				service.NewIntField(fieldLagThreshold).Default(0).Description("Records, summed over the partitions, that the source that is read may be behind another one before that one is read instead. 0: lag moves nothing."),
				service.NewDurationField(fieldCooldown).Default("30s").Description("Least time between two switches made for lag or failback. A source that fails is left at once."),
				service.NewDurationField(fieldStallTimeout).Default("30s").Description("A source that answers probes and has records to give, and gives none of a partition for so long, counts as unhealthy."),
				service.NewBoolField(fieldFailback).Default(false).Description("Go back to an earlier source of the list once it is healthy again."),
			).Advanced().Description("When a source counts as healthy, and when another one is read instead."),
			kafka.EnumField(fieldOnGap, "stop", "skip").Default("stop").Advanced().
				Description("When retention has passed the position on every source: `stop`, naming the lost range, or `skip` it, counting the lost records in kafka_relay_messages_lost_total."),
			kafka.EnumField(fieldOnDivergence, "quarantine", "ignore").Default("quarantine").Advanced().
				Description("A source that does not hold the records relayed last (key, value and headers of up to 16 per partition are compared before it is read): `quarantine` it until the relay restarts, or `ignore` the difference and read on there."),
			kafka.EnumField(fieldOnUnverified, "continue", "stop").Default("continue").Advanced().
				Description("When none of the records relayed last is left on a source to compare it with: `continue` there with a warning, or do not read it (`stop`)."),
			kafka.EnumField(fieldOnFatal, "stop", "exit").Default("stop").
				Description("After a fatal error `stop` relaying and stay up, unready, with the reason; or `exit` with code 1."),
			service.NewObjectField(fieldRetry,
				service.NewIntField(fieldMaxRetries).Default(-1).Description("Further attempts in a row to connect before giving up for good; -1: forever."),
				service.NewDurationField(fieldInitialInterval).Default("1s").Description("Wait after the first failed attempt; it doubles with each."),
				service.NewDurationField(fieldMaxInterval).Default("10s").Description("Longest wait between attempts."),
			).Advanced().Description("How to go on trying while source or target cannot be reached."),
			service.NewStringField(fieldFetchMaxBytes).Default("16MiB").Advanced().
				Description("Most bytes to fetch from a broker at once, as sent; decompressed they may be more. Kafka: fetch.max.bytes."),
			service.NewStringField(fieldFetchMaxPartitionBytes).Default("1MiB").Advanced().
				Description("Most bytes to fetch of one partition at once; a single larger record batch is still fetched. Kafka: max.partition.fetch.bytes."),
			service.NewDurationField(fieldFetchMaxWait).Default("100ms").Advanced().
				Description("How long a broker may wait for records. Kafka: fetch.max.wait.ms."),
			service.NewDurationField(fieldMetadataMaxAge).Default("30s").Advanced().
				Description("Age at which topic metadata is asked for again. Kafka: metadata.max.age.ms."),
			service.NewDurationField(fieldConnIdleTimeout).Default("20s").Advanced().
				Description("Idle time after which a connection is closed. Kafka: connections.max.idle.ms."),
			service.NewStringField(fieldRackID).Default("").Advanced().
				Description("Rack of this relay, to read from a replica nearby. Kafka: client.rack."),
			service.NewIntField(fieldBatchMaxRecords).Default(8192).Advanced().
				Description("Most records of a batch."),
			service.NewStringField(fieldBatchMaxBytes).Default("4MiB").Advanced().
				Description("Most bytes of a batch, keys, values and headers counted; a single larger record is a batch of its own. Times the output's `max_in_flight` it is the window."),
		).
		Fields(cacheFields()...).
		LintRule(lintRule)
}

func sourceFields() []*service.ConfigField {
	return append([]*service.ConfigField{
		service.NewStringField(fieldName).
			Description("What this source is called in logs and metrics; unique."),
		service.NewStringListField(fieldSeedBrokers).
			Description("Brokers of this cluster to connect to first; never those of two clusters. An item may hold several, separated by commas. Kafka: bootstrap.servers."),
		service.NewStringField(fieldClientID).Default("kafka-failover").Advanced().
			Description("How the relay names itself to brokers. Kafka: client.id."),
	}, kafka.SecurityFields()...)
}

// lintRule says what lint can see without building the input; parse, which
// sees all, says the same.
const lintRule = `
let size = "^[0-9.]+ *([KkMmGg][Ii]?)?[Bb]?$"
let time = "^([0-9.]+(ns|us|µs|ms|s|m|h))+$"
let sources = if this.sources.type() == "array" { this.sources } else { [] }
let patterns = if this.regexp_topics_include.or([]).type() == "array" { this.regexp_topics_include.or([]) } else { [ "x" ] }
let wrong = $patterns.filter(p -> "".re_match(p.string()).catch("wrong") == "wrong")
let topics = if this.topics.type() == "array" { this.topics.filter(t -> t.type() == "string") } else { [] }
root = match {
  this.sources.type() == "array" && $sources.length() == 0 => [ "sources is empty: name at least one source cluster" ]
  $sources.map_each(s -> s.name.or("")).unique().length() != $sources.length() => [ "two sources share a name: each source needs a name of its own" ]
  $sources.any(s -> s.name.or("x") == "") => [ "a source has no name: give it one, such as dc1" ]
  $sources.any(s -> s.seed_brokers.or([]).type() == "array" && s.seed_brokers.or([]).length() == 0) => [ "a source has no seed_brokers: name at least one broker, such as [ localhost:9092 ]" ]
  this.topics.or([]).type() == "array" && this.topics.or([]).length() == 0 && $patterns.length() == 0 => [ "topics is empty: name at least one topic, such as [ orders ]" ]
  $wrong.length() > 0 => [ "regexp_topics_include: %q is not a regular expression (RE2); write one such as orders\\..* for all topics that begin with orders.".format($wrong.index(0)) ]
  $topics.any(t -> !t.re_match("^[a-zA-Z0-9._-]{1,249}(:[a-zA-Z0-9._-]{1,249}(:([0-9]{1,9}|auto))?)?$")) => [ "topics: write each as source, source:target, source:target:partition or source:target:auto" ]
  $topics.map_each(t -> t.split(":").index(0)).unique().length() != $topics.length() => [ "topics lists a source topic twice: each source topic has one route" ]
  !this.start_offset.or("latest").string().re_match("^(earliest|latest|[0-9]{4}-[0-9]{2}-[0-9]{2}T.+)$") => [ "start_offset is neither earliest, latest nor a time such as 2026-01-31T00:00:00Z" ]
  [ "fetch_max_bytes", "fetch_max_partition_bytes", "batch_max_bytes" ].any(f -> !this.get(f).or("1MiB").string().re_match($size)) => [ "fetch_max_bytes, fetch_max_partition_bytes and batch_max_bytes are sizes: write a number and a unit, such as 512KiB or 1MiB" ]
  [ "fetch_max_wait", "metadata_max_age", "conn_idle_timeout" ].any(f -> !this.get(f).or("1s").string().re_match($time)) => [ "fetch_max_wait, metadata_max_age and conn_idle_timeout are times: write a number and a unit, such as 500ms or 30s" ]
  [ "interval", "timeout", "cooldown", "stall_timeout" ].any(f -> !this.health.get(f).or("1s").string().re_match($time)) => [ "health: interval, timeout, cooldown and stall_timeout are times: write a number and a unit, such as 500ms or 30s" ]
  [ "unhealthy_after", "healthy_after" ].any(f -> this.health.get(f).or(1).number(0) < 1) => [ "health: unhealthy_after and healthy_after must be at least 1" ]
  this.health.lag_threshold.or(0).number(-1) < 0 => [ "health.lag_threshold is a number of records, 0 for off" ]
  $patterns.length() > 0 && this.resume.or("") == "watermark" => [ "regexp_topics_include needs marks, to know a topic that was deleted and created anew, and resume: watermark keeps none: list the topics, or use resume: auto" ]
  this.on_gap.or("") == "skip" && this.resume.or("") == "watermark" => [ "on_gap: skip leaves offsets out, and with resume: watermark every record must keep its offset: use resume: auto" ]` + cacheLint + `
  this.batch_max_records.or(1).number(0) < 1 => [ "batch_max_records must be at least 1" ]
}`

type config struct {
	sources      []kafka.Conn
	routes       []relay.Route
	patterns     []*regexp.Regexp
	relay        string
	start        startOffset
	resume       position.Resume
	cache        cacheConf
	committed    bool
	stopAtEnd    bool
	standard     bool
	exitOnFatal  bool
	randomFirst  bool
	health       pool.Settings
	timeout      time.Duration // of a probe
	stallTimeout time.Duration
	skipGaps     bool
	// trust: read on from a source that differs, or that cannot be compared.
	trustDiverged, trustUnverified bool
	retry                          retry
	consumer                       kafka.Consumer
	batchRecords                   int
	batchMaxBytes                  int
}

type retry struct {
	max            int
	first, longest time.Duration
}

// startOffset is where a partition begins that the target knows nothing of.
type startOffset struct {
	latest bool
	at     time.Time // zero: earliest, unless latest
}

func parseStartOffset(s string) (startOffset, error) {
	switch s {
	case "earliest":
		return startOffset{}, nil
	case "latest":
		return startOffset{latest: true}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return startOffset{}, fmt.Errorf("start_offset %q is neither earliest, latest nor a time such as 2026-01-31T00:00:00Z", s)
	}
	return startOffset{at: t}, nil
}

// parse reads the configuration, once. Every wrong value gets one line.
func parse(p *service.ParsedConfig, logger *service.Logger) (config, error) {
	r := kafka.NewFields(p)
	c := config{
		relay:       r.String(fieldRelay),
		resume:      position.Resume(r.String(fieldResume)),
		committed:   r.String(fieldIsolation) == "read_committed",
		stopAtEnd:   r.Bool(fieldStopAtEnd),
		standard:    r.String(fieldMetadata) == "standard",
		exitOnFatal: r.String(fieldOnFatal) == "exit",
		randomFirst: r.String(fieldInitialSource) == "random",
		skipGaps:    r.String(fieldOnGap) == "skip",

		trustDiverged: r.String(fieldOnDivergence) == "ignore", trustUnverified: r.String(fieldOnUnverified) == "continue",
		consumer: kafka.Consumer{
			Isolation:              kgo.ReadUncommitted(),
			FetchMaxBytes:          int32(r.Bytes(fieldFetchMaxBytes, 1024, 512<<20)),
			FetchMaxPartitionBytes: int32(r.Bytes(fieldFetchMaxPartitionBytes, 1024, 512<<20)),
			FetchMaxWait:           r.Duration(fieldFetchMaxWait, time.Millisecond),
			RackID:                 r.String(fieldRackID),
		},
		batchRecords:  r.Int(fieldBatchMaxRecords, 1, 1<<20),
		batchMaxBytes: r.Bytes(fieldBatchMaxBytes, 1024, 1<<30),
	}
	if c.committed {
		c.consumer.Isolation = kgo.ReadCommitted()
	}
	c.consumer.FetchMaxPartitionBytes = min(c.consumer.FetchMaxPartitionBytes, c.consumer.FetchMaxBytes)
	var err error
	c.start, err = parseStartOffset(r.String(fieldStartOffset))
	r.Note(err)
	c.patterns, err = relay.ParsePatterns(r.Strings(fieldPatterns))
	r.Note(err)
	if len(c.patterns) > 0 && c.resume == position.ResumeWatermark {
		r.Note(errors.New("regexp_topics_include needs marks, to know a topic that was deleted and created anew, and resume: watermark keeps none: list the topics, or use resume: auto"))
	}
	c.parseCache(r)
	if topics := r.Strings(fieldTopics); len(topics) > 0 || len(c.patterns) == 0 {
		c.routes, err = relay.ParseRoutes(topics)
		r.Note(err)
	}
	rf := kafka.NewFields(p.Namespace(fieldRetry))
	c.retry = retry{rf.Int(fieldMaxRetries, -1, 1<<30), rf.Duration(fieldInitialInterval, time.Millisecond), rf.Duration(fieldMaxInterval, time.Millisecond)}
	r.Note(rf.Err())
	hf := kafka.NewFields(p.Namespace(fieldHealth))
	c.health = pool.Settings{
		Interval:       hf.Duration(fieldInterval, 10*time.Millisecond),
		UnhealthyAfter: hf.Int(fieldUnhealthyAfter, 1, 1000), HealthyAfter: hf.Int(fieldHealthyAfter, 1, 1000),
		LagThreshold: int64(hf.Int(fieldLagThreshold, 0, math.MaxInt)),
		Cooldown:     hf.Duration(fieldCooldown, 0), Failback: hf.Bool(fieldFailback),
	}
	c.timeout, c.stallTimeout = hf.Duration(fieldTimeout, 10*time.Millisecond), hf.Duration(fieldStallTimeout, time.Second)
	r.Note(hf.Err())
	if c.skipGaps && c.resume == position.ResumeWatermark {
		r.Note(errors.New("on_gap: skip leaves offsets out, and with resume: watermark every record must keep its offset: use resume: auto"))
	}
	c.sources, err = parseSources(p, r, logger)
	r.Note(err)
	if c.retry.first > c.retry.longest {
		r.Note(fmt.Errorf("retry.initial_interval is %s and must not be above retry.max_interval, %s", c.retry.first, c.retry.longest))
	}
	for _, s := range c.sources {
		r.Note(kafka.Validate(c.consumer.Opts(s)))
	}
	return c, r.Err()
}

func parseSources(p *service.ParsedConfig, shared *kafka.Fields, logger *service.Logger) ([]kafka.Conn, error) {
	list, err := p.FieldObjectList(fieldSources)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("sources is empty: name at least one source cluster")
	}
	maxAge, idle := shared.Duration(fieldMetadataMaxAge, 10*time.Millisecond), shared.Duration(fieldConnIdleTimeout, time.Second)
	seen := map[string]bool{}
	var out []kafka.Conn
	for _, item := range list {
		r := kafka.NewFields(item)
		c := kafka.Conn{
			Name: r.String(fieldName), SeedBrokers: r.Brokers(fieldSeedBrokers), ClientID: r.String(fieldClientID), Security: r.Security(),
			MetadataMaxAge: maxAge, ConnIdleTimeout: idle, Logger: logger,
		}
		switch {
		case r.Err() != nil:
			return nil, fmt.Errorf("source %q: %w", c.Name, r.Err())
		case c.Name == "":
			return nil, errors.New("a source has an empty name: give it one, such as dc1")
		case seen[c.Name]:
			return nil, fmt.Errorf("two sources share the name %q: each source needs a name of its own", c.Name)
		}
		seen[c.Name] = true
		out = append(out, c)
	}
	return out, nil
}
