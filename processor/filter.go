// Package processor is kafka_failover_filter: a filter for relayed records that
// is counted under its own name and costs less than a mapping.
package processor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/bloblang"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Name is what the plugin is called in configurations.
const Name = "kafka_failover_filter"

const (
	fieldName    = "name"
	fieldCheck   = "check"
	fieldOnError = "on_error"
)

// The values of the field on_error.
const (
	onErrorStop = "stop"
	onErrorKeep = "keep"
	onErrorDrop = "drop"
)

func init() {
	service.MustRegisterBatchProcessor(Name, Spec(), func(p *service.ParsedConfig, res *service.Resources) (service.BatchProcessor, error) {
		return New(p, res)
	})
}

// Spec is the configuration of the filter.
func Spec() *service.ConfigSpec {
	return service.NewConfigSpec().
		Categories("Utility").
		Summary("Keeps the records for which a Bloblang query is true, and counts those it takes out under its own name.").
		Description(`
A filtered record counts as relayed: it is not read again after a restart. A query that fails, or gives neither true nor false, never passes or drops a record unnoticed: `+"`on_error`"+` says what happens.

Key, headers, topic, partition, offset and timestamp can be asked for as metadata (`+"`@kafka_key`, `meta(\"kafka_topic\")`"+`, a header by its name) even with `+"`metadata: none`"+` of the input. Written as `+"`meta(\"name\")` or `metadata(\"name\")`"+` they are read from the record itself, which is fastest.`).
		Field(service.NewStringField(fieldName).
			Description("The label `filter` of the metric kafka_relay_messages_filtered_total.")).
		Field(service.NewBloblangField(fieldCheck).
			Description("A Bloblang query; true keeps the record.").
			Examples(`this.currency == "INR"`, `meta("kafka_key").has_prefix("eu-")`, `content().length() < 100000`)).
		Field(kafka.EnumField(fieldOnError, onErrorStop, onErrorKeep, onErrorDrop).Default(onErrorStop).
			Description("What to do with a record on which the query failed: `stop` the relay at it, `keep` it, or `drop` it and count it as filtered.")).
		Example("By content", "Only payments in rupees are relayed.", `
pipeline:
  processors:
    - kafka_failover_filter:
        name: inr_only
        check: this.currency == "INR"
`).
		LintRule(fmt.Sprintf(`root = match {
  this.name.or("x") == "" => [ "name is empty: give the filter a name, it is counted by it" ]
  [ "%s" ].contains(this.name.or("")) => [ "name: " + this.name + " is counted for something else; give the filter another name" ]
}`, strings.Join(metrics.Reserved(), `", "`)))
}

// Filter implements service.BatchProcessor.
type Filter struct {
	name    string
	check   *bloblang.Executor
	quick   *sync.Pool // of *quick; nil if the check asks for more than that knows
	onError string
	metrics *metrics.Filter
	engine  *metrics.Engine
	log     *service.Logger
	loud    rate
}

// New builds the filter.
func New(p *service.ParsedConfig, res *service.Resources) (*Filter, error) {
	f := &Filter{log: res.Logger()}
	var err1, err2, err3, err4 error
	f.name, err1 = p.FieldString(fieldName)
	f.check, err2 = p.FieldBloblang(fieldCheck)
	f.onError, err3 = p.FieldString(fieldOnError)
	text, err4 := p.FieldString(fieldCheck)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	if f.name == "" || slices.Contains(metrics.Reserved(), f.name) {
		return nil, fmt.Errorf("name: %q is empty or counted for something else; give the filter a name of its own", f.name)
	}
	f.quick = newQuick(text)
	f.metrics, f.engine = metrics.NewFilter(res.Metrics(), f.name), metrics.NewEngineProcessor(res.Metrics())
	return f, nil
}

// Close has nothing to do.
func (f *Filter) Close(context.Context) error { return nil }

// ProcessBatch returns the messages that the check keeps.
func (f *Filter) ProcessBatch(_ context.Context, batch service.MessageBatch) ([]service.MessageBatch, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	t := relay.TicketFrom(batch[0].Context())
	b := &asked{f: f, batch: batch}
	if t != nil && t.Generation().Direct {
		if !record.IsCarrier(batch) {
			return []service.MessageBatch{batch}, nil // the output refuses it and says why
		}
		b.batch, b.sources = nil, t.Carried()
		f.engine.Received(len(b.sources) - 1)
	}
	kept := b.filter()
	if b.sources != nil {
		t.Carry(b.sources[:kept])
		if kept > 0 {
			b.batch = batch
			f.engine.Sent(kept - 1)
		}
	}
	if b.dropped > 0 {
		f.metrics.Filtered(int64(b.dropped))
		if t != nil {
			t.Filtered(b.records)
		}
	}
	if kept == 0 {
		return nil, nil
	}
	return []service.MessageBatch{b.batch}, nil
}

// asked is a batch that a filter is asked about.
type asked struct {
	f *Filter
	// batch has the messages, or sources what they would be made from, where the
	// ticket carries them.
	batch   service.MessageBatch
	sources []record.Source
	// full answers with all that Bloblang knows; made when it is first needed.
	full *service.MessageBatchBloblangExecutor
	// dropped messages; records is how many records they are: a processor before
	// may have made several messages of one.
	dropped, records int
}

// size is how many there are.
func (b *asked) size() int { return max(len(b.batch), len(b.sources)) }

// filter moves what is kept to the front, and returns how many that are.
func (b *asked) filter() (kept int) {
	var q *quick
	if b.f.quick != nil {
		q, _ = b.f.quick.Get().(*quick)
		defer b.f.quick.Put(q)
	}
	if q == nil { // while all are where they were
		b.full = b.complete().BloblangExecutor(b.f.check)
	}
	var left service.MessageBatch
	if b.sources == nil { // the engine may still look at the batch it gave
		left = make(service.MessageBatch, 0, len(b.batch))
	}
	var last *kgo.Record
	for i := range b.size() {
		m, src := b.item(i)
		keep := b.hasFailed(m, src) // something did before: the output decides
		if !keep {
			var err error
			if keep, err = b.ask(q, i, m, src); err != nil {
				keep = b.failed(m, src, err)
			}
		}
		switch {
		case !keep:
			b.dropped++
			if src != nil && last != src.Record {
				b.records++
				last = src.Record
			}
			continue
		case b.sources != nil:
			b.sources[kept] = b.sources[i]
		default:
			left = append(left, m)
		}
		kept++
	}
	if b.sources == nil {
		b.batch = left
	}
	return kept
}

// hasFailed tells whether something failed on a message before.
func (*asked) hasFailed(m *service.Message, src *record.Source) bool {
	if m == nil {
		return src.Failed != nil
	}
	return m.GetError() != nil
}

// item is a message, nil if the ticket carries the sources, and what it was or
// would be made from.
func (b *asked) item(i int) (*service.Message, *record.Source) {
	if b.sources != nil {
		return nil, &b.sources[i]
	}
	return b.batch[i], record.SourceOf(b.batch[i])
}

// ask puts the check to a message.
func (b *asked) ask(q *quick, i int, m *service.Message, src *record.Source) (bool, error) {
	if q != nil {
		if keep, sure, err := q.ask(m, src); sure {
			return keep, err
		}
	}
	if b.full == nil {
		b.full = b.complete().BloblangExecutor(b.f.check)
	}
	answer, err := b.full.Query(i)
	switch {
	case err != nil:
		return false, err
	case answer == nil:
		return false, errNotBool("deleted()")
	}
	v, err := answer.AsStructured()
	if err != nil {
		return false, errNotBool("no value")
	}
	return isTrue(v)
}

// complete returns the batch with the metadata that each message would have
// with `metadata: standard`.
func (b *asked) complete() service.MessageBatch {
	out := make(service.MessageBatch, b.size())
	for i := range out {
		m, src := b.item(i)
		if m != nil && (src == nil || src.Batch.Standard) {
			out[i] = m
			continue
		}
		shared := *src.Batch
		shared.Standard = true
		whole := record.NewMessage(context.Background(), &record.Source{Record: src.Record, Span: src.Span, Batch: &shared})
		if m != nil { // what the pipeline has made of it counts
			whole = whole.WithContext(m.Context())
			if value, err := m.AsBytes(); err == nil {
				whole.SetBytes(value)
			}
			_ = m.MetaWalkMut(func(name string, v any) error { whole.MetaSetMut(name, v); return nil })
		}
		out[i] = whole
	}
	return out
}

func isTrue(v any) (bool, error) {
	if b, ok := v.(bool); ok {
		return b, nil
	}
	return false, errNotBool(fmt.Sprintf("%T", v))
}

func errNotBool(got string) error {
	return fmt.Errorf("the check gave neither true nor false but %s", got)
}

// failed tells whether a record is kept on which the check failed. Only an output
// of ours stops at a failed message; any other one would write it.
func (b *asked) failed(m *service.Message, src *record.Source, err error) bool {
	var t *relay.Ticket
	if m != nil { // its own: several batches may have been made one
		t = relay.TicketFrom(m.Context())
	}
	if b.f.onError == onErrorStop && t != nil && t.Generation().IsAlone() {
		t.Stop(fmt.Errorf("filter %q failed: %w (on_error: stop); mend the check, or set on_error of the filter to keep or drop", b.f.name, err))
		return false
	}
	return b.f.failed(m, src, err)
}

// failed tells the same where the output heeds failed messages.
func (f *Filter) failed(m *service.Message, src *record.Source, err error) bool {
	if f.onError == onErrorStop {
		err = fmt.Errorf("filter %q failed: %w (%w)", f.name, err, record.ErrStop)
		if m == nil {
			src.Failed = &record.Failure{Err: err, Component: Name + " " + f.name}
		} else {
			m.SetError(err)
		}
		return true
	}
	if f.loud.allows() {
		log := f.log.With("filter", f.name)
		if src != nil {
			log = log.With("topic", src.Record.Topic, "partition", src.Record.Partition, "offset", src.Record.Offset)
		}
		log.Warnf("Filter %s failed on a record, on_error: %s: %v", f.name, f.onError, err)
	}
	return f.onError == onErrorKeep
}

// rate lets one through a second.
type rate struct {
	mu   sync.Mutex
	last time.Time
}

func (r *rate) allows() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.last) < time.Second {
		return false
	}
	r.last = time.Now()
	return true
}
