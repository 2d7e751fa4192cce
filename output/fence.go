package output

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

// transactionVersion is the least level of transaction.version (KIP-890, Kafka
// 4.0): from it on a late write of an aborted transaction cannot end up in the
// next one.
const transactionVersion = 2

const (
	// fenceTimeout bounds one attempt to become the producer.
	fenceTimeout = 20 * time.Second
	// standAside is how long an instance that was fenced waits for marks of one
	// that may have taken over, which writes them as its first act. Without any
	// the target has given the transaction up by itself, since it was open for
	// too long.
	standAside = 3 * time.Second
)

// ownerKey is the key of a mark that holds no position: it says which instance
// has the transactional ID, whatever topics it relays. No topic is called ".".
func ownerKey(relayID string) position.Key {
	return position.Key{RelayID: relayID, Source: position.TP{Topic: "."}, Target: "."}
}

// fence makes this instance the one producer of the relay's transactions:
// what an earlier one has open is aborted, and it cannot write any more
// (InitProducerID, KIP-98). What is in the target then is decided.
func (b *bearing) fence(ctx context.Context) error {
	o := b.out
	if !o.conf.exactly {
		return nil
	}
	if o.generation > 0 { // whoever has taken over is left in peace
		if err := b.yield(ctx); err != nil {
			return err
		}
	}
	if err := b.checkTransactions(ctx); err != nil {
		return err
	}
	client, err := o.becomeProducer(ctx, o.conf.producer)
	b.client = client
	return err
}

func (o *Output) becomeProducer(ctx context.Context, p kafka.Producer) (*kgo.Client, error) {
	client, err := o.dial(p.Opts(o.conf.conn))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	if _, _, err := client.ProducerID(ctx); err != nil {
		client.Close()
		return nil, o.explainFence(p, err)
	}
	return client, nil
}

// retire ends, for a relay that goes back to at_least_once, whatever instance
// still has its transactions: one that was only paused would go on with them.
func (b *bearing) retire(ctx context.Context) error {
	o := b.out
	if o.conf.exactly || b.progress == nil || o.generation > 0 {
		return nil
	}
	if err := b.glance(ctx); err != nil {
		return err
	}
	e, ok := b.marks[ownerKey(b.standing.RelayID)]
	if !ok || e.Mark.Instance == o.instance {
		return nil
	}
	p := o.conf.producer
	p.TransactionalID, p.TransactionTimeout = transactionalID(b.standing.RelayID), time.Minute
	client, err := o.becomeProducer(ctx, p)
	if err != nil {
		return err
	}
	client.Close()
	return nil
}

// checkTransactions refuses what transactions cannot be had with, as far as
// asking tells.
func (b *bearing) checkTransactions(ctx context.Context) error {
	o := b.out
	if b.query.Resume == position.ResumeWatermark {
		return &position.Stop{Reason: "resume: watermark keeps no marks, and delivery: exactly_once commits them with the records", Cure: "use resume: auto"}
	}
	level, err := b.cluster.Feature(ctx, "transaction.version")
	if err != nil {
		return err
	}
	if level < transactionVersion {
		return &position.Stop{
			Reason: fmt.Sprintf("delivery: exactly_once needs transaction.version %d on the target (Kafka 4.0 or newer), which has %d", transactionVersion, level),
			Cure:   fmt.Sprintf("upgrade it, then: kafka-features.sh --bootstrap-server %s upgrade --feature transaction.version=%d; or use delivery: at_least_once", o.conf.conn.SeedBrokers[0], transactionVersion),
		}
	}
	return nil
}

// stake signs the marks that are there, and the owner's, before anything else is
// looked at: the instance that this one has fenced learns from them that it was
// taken over, even if this one cannot relay yet. What was written before the
// fence stands before them.
func (b *bearing) stake(ctx context.Context) error {
	if b.client == nil {
		return nil
	}
	sign := func(k position.Key, m position.Mark) *kgo.Record {
		m.Generation, m.Instance = b.out.generation, b.out.instance
		return markRecord(b.progress.Name, k, m)
	}
	owner := ownerKey(b.standing.RelayID)
	records := []*kgo.Record{sign(owner, position.Mark{Transactional: true})}
	live := false // an instance that transactions do not fence may still write
	for _, k := range b.keys {
		if e, ok := b.marks[k]; ok && e.Mark.Instance != b.out.instance {
			records = append(records, sign(k, e.Mark))
			live = live || !e.Mark.Transactional
		}
	}
	within, cancel := context.WithTimeout(ctx, firstMarksTimeout)
	defer cancel()
	if err := inTransaction(within, b.client, func() error {
		_, err := produceMarks(within, b.client, records)
		return err
	}); err != nil {
		return err
	}
	if err := b.confirm(within, owner); err != nil || !live {
		return err
	}
	// It looks for newer marks once in watchInterval, and ends.
	select {
	case <-time.After(watchInterval + watchTimeout):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// confirm makes sure that the marks were read to their end: a broker that no
// longer leads may have answered.
func (b *bearing) confirm(ctx context.Context, owner position.Key) error {
	for {
		entries, err := b.progress.Tail(ctx)
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch {
			case e.Mark.Instance == b.out.instance && e.Key == owner:
				return nil
			case e.Mark.Instance != b.out.instance && (e.Key == owner || slices.Contains(b.keys, e.Key)):
				return fmt.Errorf("marks of progress topic %q were written while they were read; they are read again", b.progress.Name)
			}
		}
		select {
		case <-time.After(stablePoll): // a commit shows once its markers are written
		case <-ctx.Done():
			return fmt.Errorf("progress topic %q does not show the marks just written; they are read again", b.progress.Name)
		}
	}
}

// glance reads the marks that are decided, and waits for no others.
func (b *bearing) glance(ctx context.Context) (err error) {
	b.marks, err = b.progress.Load(ctx)
	return err
}

// yield finds out whether another instance has fenced this one.
func (b *bearing) yield(ctx context.Context) error {
	if err := b.each(ctx, b.openProgress, b.glance, b.claim); err != nil {
		return err
	}
	if b.out.fencedAt.IsZero() {
		return nil
	}
	if since := time.Since(b.out.fencedAt); since < standAside {
		return fmt.Errorf("the target has taken this relay's transactions away (another instance with relay_id %q, or a transaction open for longer than transaction_timeout): waiting %s to see whose they are", b.standing.RelayID, standAside)
	}
	b.out.fencedAt = time.Time{}
	return nil
}

func (o *Output) explainFence(p kafka.Producer, err error) error {
	switch {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return &position.Stop{
			Reason: fmt.Sprintf("the target does not let this relay use transactional.id %q", p.TransactionalID),
			Cure:   fmt.Sprintf("allow it: kafka-acls.sh --bootstrap-server %s --add --allow-principal User:... --operation Write --operation Describe --transactional-id %s", o.conf.conn.SeedBrokers[0], p.TransactionalID),
		}
	case errors.Is(err, kerr.InvalidTransactionTimeout):
		return &position.Stop{
			Reason: fmt.Sprintf("transaction_timeout is %s, which is more than the target allows", p.TransactionTimeout),
			Cure:   "lower it, or raise transaction.max.timeout.ms of the brokers",
		}
	}
	return fmt.Errorf("becoming the producer of transactional.id %q: %w", p.TransactionalID, o.conf.conn.Explain(err))
}
