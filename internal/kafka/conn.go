// Package kafka is the only place that builds franz-go clients, and holds the
// few questions the relay asks a cluster: what it is, what its topics are, where
// their logs start and end, and what stands at an offset.
package kafka

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Conn is how to reach one cluster.
type Conn struct {
	// Name is how messages call the cluster.
	Name            string
	SeedBrokers     []string
	ClientID        string
	MetadataMaxAge  time.Duration
	ConnIdleTimeout time.Duration
	Security        Security
	Logger          *service.Logger
	// Events, if set, are told about connections.
	Events *Events
	// patience bounds the opening of a connection; dialTimeout if zero.
	patience time.Duration
}

// Events are told what happens to a client's connections, from the client's
// goroutines: they must not block. Each may be nil.
type Events struct {
	// Connected: a connection was opened and authenticated.
	Connected func()
	// Failed: one could not be opened.
	Failed func(error)
	// Lost: an open one was closed, by either side.
	Lost func()
	// Unanswered: a produce request was not sent as a whole, or its answer did
	// not come; the client sends its records again.
	Unanswered func()
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (e *Events) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	switch {
	case err == nil && e.Connected != nil:
		e.Connected()
	case err != nil && e.Failed != nil:
		e.Failed(err)
	}
}

// OnBrokerDisconnect implements kgo.HookBrokerDisconnect.
func (e *Events) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) {
	if e.Lost != nil {
		e.Lost()
	}
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (e *Events) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if e.Unanswered != nil && key == int16(kmsg.Produce) && e2e.Err() != nil {
		e.Unanswered()
	}
}

// Opts are the options every client of the cluster shares.
func (c Conn) Opts() []kgo.Opt {
	patience := cmp.Or(c.patience, dialTimeout)
	opts := append(c.Security.opts(patience),
		kgo.SeedBrokers(c.SeedBrokers...),
		kgo.ClientID(c.ClientID),
		kgo.MetadataMaxAge(c.MetadataMaxAge),
		kgo.MetadataMinAge(min(250*time.Millisecond, c.MetadataMaxAge)),
		kgo.ConnIdleTimeout(c.ConnIdleTimeout),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return min(time.Duration(tries)*50*time.Millisecond, time.Second) }),
		kgo.WithLogger(logger{c}),
	)
	if c.Events != nil {
		opts = append(opts, kgo.WithHooks(c.Events))
	}
	return opts
}

// Consumer are the options of the client that fetches records.
type Consumer struct {
	Offsets                map[string]map[int32]kgo.Offset
	Isolation              kgo.IsolationLevel
	FetchMaxBytes          int32
	FetchMaxPartitionBytes int32
	FetchMaxWait           time.Duration
	RackID                 string
}

// Opts are the options of c's client. It never chooses an offset by itself: the
// default reset skips a gap, rewinds on a shorter log and splices a recreated
// topic, all without a word (seen on Kafka 4.1).
func (o Consumer) Opts(c Conn) []kgo.Opt {
	return append(c.Opts(),
		kgo.ConsumePartitions(o.Offsets),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(o.Isolation),
		kgo.FetchMaxBytes(o.FetchMaxBytes),
		kgo.FetchMaxPartitionBytes(o.FetchMaxPartitionBytes),
		kgo.FetchMaxWait(o.FetchMaxWait),
		kgo.BrokerMaxReadBytes(max(100<<20, 2*o.FetchMaxBytes)),
		kgo.Rack(o.RackID),
	)
}

// Producer are the options of a client that writes.
type Producer struct {
	Idempotent      bool
	Acks            kgo.Acks
	Compression     kgo.CompressionCodec
	Linger          time.Duration
	MaxMessageBytes int32
	// Plain: somebody else retries, so an unknown topic and a lost sequence
	// are errors to report, not to wait out or to stop at.
	Plain bool
	// TransactionalID, if set, has everything written in transactions, which
	// the broker aborts after TransactionTimeout.
	TransactionalID    string
	TransactionTimeout time.Duration
}

// Opts are the options of c's client. Retries and delivery time stay unlimited,
// so that an outage is waited out in order; the caller bounds what is buffered,
// so Produce never blocks. A sequence gap fails the records instead of sending
// them again under a new epoch, and the relay reads back where it stands.
func (o Producer) Opts(c Conn) []kgo.Opt {
	opts := append(c.Opts(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(o.Acks),
		kgo.ProducerBatchCompression(o.Compression),
		kgo.ProducerLinger(o.Linger),
		kgo.ProducerBatchMaxBytes(o.MaxMessageBytes),
		kgo.BrokerMaxWriteBytes(max(100<<20, 2*o.MaxMessageBytes)),
		kgo.MaxBufferedRecords(math.MaxInt32),
	)
	if !o.Plain {
		opts = append(opts, kgo.UnknownTopicRetries(-1), kgo.StopProducerOnDataLossDetected())
	}
	if o.TransactionalID != "" {
		opts = append(opts, kgo.TransactionalID(o.TransactionalID), kgo.TransactionTimeout(o.TransactionTimeout))
	}
	if !o.Idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
	}
	return opts
}

// Dial makes a client with opts; nothing is connected before its first use.
func Dial(opts []kgo.Opt) (*kgo.Client, error) { return kgo.NewClient(opts...) }

// Validate says what franz-go would refuse about opts.
func Validate(opts []kgo.Opt) error {
	if err := kgo.ValidateOpts(opts...); err != nil {
		return fmt.Errorf("the Kafka client refuses this configuration: %w; lower or raise the field it speaks of", err)
	}
	return nil
}

// Admin makes a client for questions and administration.
func (c Conn) Admin() (*Cluster, error) { return c.cluster() }

// Prober makes a client for Look. It tries nothing twice, so that a dead broker
// is known as such at once, and gives a connection up after patience.
func (c Conn) Prober(patience time.Duration) (*Cluster, error) {
	c.patience = max(patience, 100*time.Millisecond) // franz-go takes no less
	return c.cluster(kgo.RequestRetries(0), kgo.RequestTimeoutOverhead(c.patience))
}

func (c Conn) cluster(opts ...kgo.Opt) (*Cluster, error) {
	opts = append(c.Opts(), append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	cl, err := Dial(opts)
	if err != nil {
		return nil, err
	}
	return &Cluster{Conn: c, Client: cl, Admin: kadm.NewClient(cl)}, nil
}

// logger passes the client's own log lines on, far down: what matters of them
// the relay says itself, once.
type logger struct{ c Conn }

func (l logger) Level() kgo.LogLevel { return kgo.LogLevelInfo }

func (l logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if l.c.Logger == nil {
		return
	}
	lg := l.c.Logger.With("cluster", l.c.Name).With(keyvals...)
	if level <= kgo.LogLevelWarn {
		lg.Debug(msg)
		return
	}
	lg.Trace(msg)
}
