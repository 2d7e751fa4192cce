package output

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/progress"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Name is what the plugin is called in configurations.
const Name = "kafka_failover"

func init() {
	service.MustRegisterBatchOutput(Name, Spec(), func(p *service.ParsedConfig, res *service.Resources) (service.BatchOutput, service.BatchPolicy, int, error) {
		o, err := New(p, res)
		return o, service.BatchPolicy{}, relay.MaxBatches, err
	})
}

// Output implements service.BatchOutput and relay.Target.
type Output struct {
	conf    config
	log     *service.Logger
	name    string
	seats   []*relay.Seat
	refused refusals
	metrics *metrics.Output
	engine  *metrics.Engine
	plain   plain

	// instance tells this output from any other that writes the same marks,
	// generation from those before it; 0 until the marks have been read.
	instance   string
	generation int64

	mu      sync.Mutex
	closed  bool
	cluster *kafka.Cluster // for questions; nil until the first
	session *session
	// What the last Stand found, for the Begin that follows.
	found *found
	// known are the IDs of the target's topics, by name, as first seen: another
	// one later means that the topic was recreated.
	known   map[string]string
	missing int // looks in a row that missed a target topic
	// fencedAt is when the transactions were taken away; zero if they are ours.
	fencedAt time.Time
	// hung is the transaction that was in the way of reading the target back.
	hung hung
	// content are the IDs of topics that records were sent to by content.
	content sync.Map
	named   time.Time
	// letterMax is the dead letter topic's max.message.bytes, 0 if it is not known.
	letterMax atomic.Int64
	pulse     pulse
}

type found struct {
	progress *progress.Topic
	topics   map[string]kafka.Topic
	client   *kgo.Client // with exactly_once, until a session takes it
}

func (f *found) close() {
	if f.client != nil {
		f.client.Close()
	}
}

// New builds the output. It opens nothing: Benthos builds outputs that it
// never runs.
func New(p *service.ParsedConfig, res *service.Resources) (*Output, error) {
	conf, err := parse(p, res.Logger())
	if err != nil {
		return nil, err
	}
	id := make([]byte, 6)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	o := &Output{
		conf: conf, log: res.Logger(), instance: hex.EncodeToString(id),
		name: "output " + componentName(res), metrics: metrics.NewOutput(res.Metrics()), engine: metrics.NewEngineOutput(res.Metrics()),
	}
	o.conf.conn.Events = o.events()
	o.seats = append(o.seats, relay.Join(res, conf.relay).AnnounceOutput(o, o.weak()))
	if label := res.Label(); label != "" && conf.relay == "" {
		// An output resource is found by its label.
		o.seats = append(o.seats, relay.Join(res, label).AnnounceOutput(o, o.weak()))
	}
	if !conf.producer.Idempotent {
		o.log.Warn("idempotent_write is false: retries may reorder or repeat records, and with acks other than all the target may lose them")
	}
	return o, nil
}

// weak: the output is meant for messages that no kafka_failover input made.
func (o *Output) weak() bool { return o.hasTarget() && !o.conf.exactly }

// paired is the announcement at the hub where an input sits; nil without one.
func (o *Output) paired() *relay.Seat {
	for _, s := range o.seats {
		if s.HasInput() {
			return s
		}
	}
	return nil
}

func componentName(res *service.Resources) string {
	if l := res.Label(); l != "" {
		return fmt.Sprintf("%q", l)
	}
	return strings.Join(append([]string{Name}, res.Path()...), ".")
}

// Connect has nothing to do for a relay: the input carries readiness, for the
// target too. Without one the target is to be reachable.
func (o *Output) Connect(ctx context.Context) error {
	if o.paired() != nil {
		return nil
	}
	return o.plain.connect(ctx, o)
}

// WriteBatch writes one batch and returns once it is acknowledged. What goes
// wrong with a relayed batch is told to its generation and not to Benthos: see
// relay.Ticket.Fail.
func (o *Output) WriteBatch(ctx context.Context, batch service.MessageBatch) error {
	if len(batch) == 0 {
		return nil
	}
	t := relay.TicketFrom(batch[0].Context())
	if t == nil {
		return o.writePlain(ctx, batch)
	}
	err := t.Claim(o, o.name)
	s := o.current()
	switch {
	case errors.Is(err, relay.ErrBroken) || (err == nil && (s == nil || s.gen != t.Generation())):
		t.Fail(relay.ErrBroken)
	case err != nil:
		t.Generation().Disown(err, errors.Is(err, relay.ErrEarlyAck))
		t.Fail(err)
	default:
		s.write(ctx, t, batch)
	}
	return nil
}

// Own implements relay.Target.
func (o *Output) Own() []string { return []string{o.conf.progressTopic, o.conf.deadLetterTopic} }

// Left implements relay.Target.
func (o *Output) Left() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

func (o *Output) current() *session {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.session
}

// closeTimeout bounds the last marks: without them the next start reads a
// little more, and nothing else is lost.
const closeTimeout = 3 * time.Second

// Close writes the last marks if everything went well and releases what this
// output holds, and nothing of the one that may have taken its place.
func (o *Output) Close(ctx context.Context) error {
	o.mu.Lock()
	s := o.session
	o.session = nil
	o.mu.Unlock()
	if s != nil {
		ctx, cancel := context.WithTimeout(ctx, closeTimeout)
		s.lastMarks(ctx)
		s.close()
		if err := s.settle(ctx); err != nil {
			o.log.Errorf("Stopped for good while closing: %v", err)
			for _, seat := range o.seats { // the input may have left before
				seat.Fail(err)
			}
		}
		cancel()
	}
	for _, seat := range o.seats {
		seat.Leave()
	}
	o.mu.Lock()
	cluster := o.cluster
	if o.found != nil {
		o.found.close()
	}
	o.closed, o.cluster, o.found = true, nil, nil
	o.mu.Unlock()
	if cluster != nil {
		cluster.Close()
	}
	o.plain.close()
	o.pulse.stop(o.metrics)
	return nil
}

func (o *Output) admin() (*kafka.Cluster, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, errors.New("the output is closed")
	}
	if o.cluster == nil {
		c, err := o.conf.conn.Admin()
		if err != nil {
			o.metrics.NoClient()
			return nil, err
		}
		o.cluster = c
	}
	return o.cluster, nil
}

// borrow returns the client for questions if there is one, else one that done
// closes: whoever only asks leaves nothing open.
func (o *Output) borrow() (c *kafka.Cluster, done func(), err error) {
	o.mu.Lock()
	c = o.cluster
	o.mu.Unlock()
	if c != nil {
		return c, func() {}, nil
	}
	if c, err = o.conf.conn.Admin(); err != nil {
		return nil, nil, err
	}
	return c, c.Close, nil
}

// noteLeftOut counts what on_error leaves out of the target topic, and names one
// record a second.
func (o *Output) noteLeftOut(bad *badMessage) {
	dead := o.conf.onError == onErrorDeadLetter
	if dead {
		o.metrics.DeadLettered(1)
	} else {
		o.metrics.Dropped(1)
	}
	o.mu.Lock()
	quiet := time.Since(o.named) < time.Second
	if !quiet {
		o.named = time.Now()
	}
	o.mu.Unlock()
	if quiet {
		return
	}
	log := o.log.With("topic", bad.source.Record.Topic, "partition", bad.source.Record.Partition, "offset", bad.source.Record.Offset)
	if dead {
		log.Warnf("on_error: dead_letter wrote a record to %s: %v", o.conf.deadLetterTopic, bad.err)
		return
	}
	log.Warnf("on_error: drop left a record out: %v", bad.err)
}

// Explain implements relay.Target.
func (o *Output) Explain(err error, keys []position.Key) error {
	var stop *position.Stop
	if !errors.As(err, &stop) || stop.Forget == nil {
		return err
	}
	forget := []position.Key{*stop.Forget}
	if stop.WholeTopic {
		forget = forget[:0]
		for _, k := range keys {
			if k.Source.Topic == stop.Forget.Source.Topic && k.Target == stop.Forget.Target {
				forget = append(forget, k)
			}
		}
	}
	stop.Command = position.ForgetCommand(o.conf.conn.SeedBrokers, o.conf.progressTopic, forget...)
	return stop
}
