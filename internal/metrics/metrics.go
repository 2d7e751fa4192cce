// Package metrics holds every metric's name, labels and meaning, once. Names are
// API: they are those kaf-relay's users have on their dashboards. Values are
// gathered per batch, or once a second, since a labelled call costs more than
// relaying a record.
package metrics

import (
	"strconv"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// Prefix of every metric's name.
const Prefix = "kafka_relay_"

// Kind of a Metric.
type Kind string

// The kinds. Benthos knows no histograms: one is exposed as the counters
// NAME_bucket{le}, NAME_sum and NAME_count, which PromQL takes for one.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Metric is what a metric is called, and what it means.
type Metric struct {
	Name    string
	Kind    Kind
	Labels  []string
	Meaning string
	bounds  []float64 // of a histogram's buckets
}

// Series are the names and labels under which the metric is exposed, besides
// the labels that Benthos adds.
func (m *Metric) Series() map[string][]string {
	if m.Kind != Histogram {
		return map[string][]string{m.Name: m.Labels}
	}
	return map[string][]string{m.bucketName(): {"le"}, m.sumName(): nil, m.countName(): nil}
}

func (m *Metric) bucketName() string { return m.Name + "_bucket" }
func (m *Metric) sumName() string    { return m.Name + "_sum" }
func (m *Metric) countName() string  { return m.Name + "_count" }

// All are the metrics of the relay, in the order of docs/metrics.md.
func All() []*Metric { return all }

var all []*Metric

func define(kind Kind, name, meaning string, labels ...string) *Metric {
	m := &Metric{Name: Prefix + name, Kind: kind, Labels: labels, Meaning: meaning}
	all = append(all, m)
	return m
}

func (m *Metric) buckets(bounds ...float64) *Metric {
	m.bounds = bounds
	return m
}

func (m *Metric) counter(r *service.Metrics) *service.MetricCounter {
	return r.NewCounter(m.Name, m.Labels...)
}

func (m *Metric) gauge(r *service.Metrics) *service.MetricGauge {
	return r.NewGauge(m.Name, m.Labels...)
}

// Labels that several metrics share.
const (
	nodeID = "node_id" // a source's name
	reason = "error"
)

var path = []string{"source_topic", "source_partition", "target_topic", "target_partition"}

var (
	ready      = define(Gauge, "ready", "1 while records are relayed or waited for, 0 while `/ready` says why not")
	lagRecords = define(Gauge, "lag_records", "offsets from the position, before which everything is done, to the source's end as the last probe saw it. Offsets without a record (compaction, transactions) count while they lie ahead", path...)
	lagSeconds = define(Gauge, "lag_seconds", "0 while `lag_records` is 0; else the age of the oldest record read and not done, or, with none under way, of the last one done (before the first one: the time since the relay began). By the records' timestamps and this machine's clock", path...)
	relayed    = define(Counter, "messages_relayed_total", "records written and acknowledged; with `exactly_once` committed", path...)
	filtered   = define(Counter, "messages_filtered_total", "records taken out by the filter of that name; `pipeline`: by other processors; `loop`: they have passed through this relay before; `on_error`: left out by `on_error: drop`; `dead_letter`: sent to `dead_letter_topic`", "filter")
	lost       = define(Counter, "messages_lost_total", "records that `on_gap: skip` passed over: every source has lost them", "source_topic", "source_partition")

	sourceActive       = define(Gauge, "source_active", "1 for the source that is read, or was read last, 0 for the others", nodeID)
	sourceState        = define(Gauge, "source_state", "1 for the state the source is in, 0 for the others: `unknown`, `healthy`, `unhealthy`, `short`, `trimmed`, `diverged`", nodeID, "state")
	sourceStateChanges = define(Counter, "source_state_changes_total", "changes of the source's state, by the new one", nodeID, "state")
	sourceRead         = define(Counter, "source_records_read_total", "records read from the source, those read again after a failed write included", nodeID)
	sourceHighWater    = define(Gauge, "source_highwatermark", "sum of the high watermarks of the relay's partitions, at the last good probe; with `read_committed` open transactions hold it back (last stable offsets)", nodeID)
	sourceLag          = define(Gauge, "source_lag_records", "records behind the best of the other healthy sources, added up partition by partition, at the last good probe", nodeID)
	sourceConnections  = define(Counter, "source_connections_total", "connections made", nodeID)
	sourceErrors       = define(Counter, "source_errors_total", "network errors: `connection_failed`, a connection that could not be opened or authenticated", nodeID, reason)
	sourceKafkaErrors  = define(Counter, "source_kafka_errors_total", "Kafka errors while reading: `fetch_error`, `client_closed`", nodeID, reason)
	sourceUnhealthy    = define(Counter, "source_unhealthy_total", "times no healthy source was found")
	sourceLagExceeded  = define(Counter, "source_lag_threshold_exceeded_total", "times the source fell behind by more than `lag_threshold`; the count is the lagging one's", nodeID)
	sourceSwitches     = define(Counter, "source_candidate_switches_total", "switches of the source that is read")

	windowBytes  = define(Gauge, "window_bytes", "what is read and not acknowledged takes of the window")
	windowLimit  = define(Gauge, "window_limit_bytes", "the window: `max_in_flight` times `batch_max_bytes`")
	blocks       = define(Counter, "target_inlet_blocks_total", "times a full window held the input back")
	markAge      = define(Gauge, "mark_age_seconds", "time since marks were last acknowledged, with `exactly_once` committed. Marks are written while positions move: at rest it grows. Absent with `resume: watermark`")
	flushSize    = define(Histogram, "target_flush_batch_size", "records of each batch written").buckets(1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16384, 65536)
	flushTime    = define(Histogram, "target_flush_duration_seconds", "time from handing a batch to the producer until its last acknowledgement").buckets(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)
	flushRetries = define(Counter, "target_flush_retries_total", "writes that were tried again: produce requests whose connection failed, and batches written record by record after one was refused. What the client retries because a leader has moved does not show")
	targetErrors = define(Counter, "target_errors_total", "network errors: `connection_failed`, a connection that could not be opened or authenticated; `client_creation_failed`", reason)
	targetKafka  = define(Counter, "target_kafka_errors_total", "`produce_failed`: a batch, or marks, were refused, and the relay goes on from where the target stands; `produce_retries_exhausted`: a record was refused alone as well, and `on_error` applies; `tls_config_error`: a TLS handshake failed, or the certificates that `tls` names cannot be used", reason)
)

// Path is where records come from and go to, as labels.
type Path [4]string

// AnyPartition stands for the target partition of a source partition that feeds
// several, by key; its label is what the route is called.
const AnyPartition = -1

// NewPath makes the labels.
func NewPath(sourceTopic string, sourcePartition int32, targetTopic string, targetPartition int32) Path {
	to := "auto"
	if targetPartition != AnyPartition {
		to = strconv.Itoa(int(targetPartition))
	}
	return Path{sourceTopic, strconv.Itoa(int(sourcePartition)), targetTopic, to}
}
