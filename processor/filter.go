// Package processor is kafka_failover_filter: a filter for relayed records that
// is counted under its own name and costs less than a mapping.
package processor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/bloblang"
	"github.com/redpanda-data/benthos/v4/public/service"

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
		LintRule(`root = match {
  this.name.or("x") == "" => [ "name is empty: give the filter a name, it is counted by it" ]
  [ "loop", "on_error", "pipeline" ].contains(this.name.or("")) => [ "name: " + this.name + " is counted for something else; give the filter another name" ]
}`)
}

// Filter implements service.BatchProcessor.
type Filter struct {
	name    string
	check   *bloblang.Executor
	quick   *sync.Pool // of *quick; nil if the check asks for more than that knows
	onError string
	metrics *metrics.Filter
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
	if f.name == "" || metrics.Reserved(f.name) {
		return nil, fmt.Errorf("name: %q is empty or counted for something else; give the filter a name of its own", f.name)
	}
	f.quick = newQuick(text)
	f.metrics = metrics.NewFilter(res.Metrics(), f.name)
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
	b := &asked{f: f, ticket: t, batch: batch}
	if t != nil && t.Generation().Direct {
		if b.sources = t.Carried(); len(b.sources) != len(batch) {
			return []service.MessageBatch{batch}, nil // the output refuses it and says why
		}
	}
	kept, dropped := b.filter()
	if b.sources != nil {
		t.Carry(b.sources[:len(kept)])
	}
	if dropped > 0 {
		f.metrics.Filtered(int64(dropped))
		if t != nil {
			t.Filtered(b.records)
		}
	}
	if len(kept) == 0 {
		return nil, nil
	}
	return []service.MessageBatch{kept}, nil
}

// asked is a batch that a filter is asked about.
type asked struct {
	f      *Filter
	ticket *relay.Ticket // nil for messages of other inputs
	batch  service.MessageBatch
	// sources are those of the messages, where they are bare.
	sources []record.Source
	// full answers with all that Bloblang knows; made when it is first needed.
	full *service.MessageBatchBloblangExecutor
	// records is how many records were filtered: a processor before may have
	// made several messages of one.
	records int
}

// filter returns the messages that are kept, and how many are not. What is kept
// takes the place of what is not, also among the sources.
func (b *asked) filter() (kept service.MessageBatch, dropped int) {
	var q *quick
	if b.f.quick != nil {
		q, _ = b.f.quick.Get().(*quick)
		defer b.f.quick.Put(q)
	}
	kept = make(service.MessageBatch, 0, len(b.batch))
	var last *record.Source
	for i, m := range b.batch {
		src := b.source(i)
		keep := m.GetError() != nil // something failed on it before: the output decides
		if !keep {
			var err error
			if keep, err = b.ask(q, i, m, src); err != nil {
				keep = b.failed(m, src, err)
			}
		}
		if keep {
			if b.sources != nil {
				b.sources[len(kept)] = b.sources[i]
			}
			kept = append(kept, m)
			continue
		}
		dropped++
		if src != nil && (last == nil || last.Record != src.Record) {
			b.records++
		}
		last = src
	}
	return kept, dropped
}

func (b *asked) source(i int) *record.Source {
	if b.sources != nil {
		return &b.sources[i]
	}
	return record.SourceOf(b.batch[i])
}

// ask puts the check to a message.
func (b *asked) ask(q *quick, i int, m *service.Message, src *record.Source) (bool, error) {
	if q != nil {
		if keep, sure, err := q.ask(m, src, b.sources != nil); sure {
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
	out := make(service.MessageBatch, len(b.batch))
	for i, m := range b.batch {
		out[i] = m
		src := b.source(i)
		if src == nil || (src.Batch.Standard && b.sources == nil) {
			continue
		}
		shared := *src.Batch
		shared.Standard = true
		whole := record.NewMessage(m.Context(), &record.Source{Record: src.Record, Span: src.Span, Batch: &shared})
		if b.sources == nil { // what the pipeline has made of it counts
			value, err := m.AsBytes()
			if err == nil {
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
	if b.f.onError == onErrorStop && b.ticket != nil && b.ticket.Generation().IsAlone() {
		b.ticket.Stop(fmt.Errorf("filter %q failed: %w (on_error: stop); mend the check, or set on_error of the filter to keep or drop", b.f.name, err))
		return false
	}
	return b.f.failed(m, src, err)
}

// failed tells the same where the output heeds failed messages.
func (f *Filter) failed(m *service.Message, src *record.Source, err error) bool {
	if f.onError == onErrorStop {
		m.SetError(fmt.Errorf("filter %q failed: %w (%w)", f.name, err, record.ErrStop))
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
