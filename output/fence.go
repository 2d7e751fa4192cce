package output

import (
	"context"
	"errors"
	"fmt"
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
	// that may have taken over. Without any the target has given the transaction
	// up by itself, since it was open for too long.
	standAside = 10 * time.Second
)

// fence makes this instance the one producer of the relay's transactions:
// what an earlier one has open is aborted, and it cannot write any more
// (InitProducerID, KIP-98). What is in the target then is decided.
func (b *bearing) fence(ctx context.Context) error {
	o := b.out
	if !o.conf.exactly {
		return nil
	}
	if !o.fencedAt.IsZero() {
		if err := b.yield(ctx); err != nil {
			return err
		}
	}
	if err := b.checkTransactions(ctx); err != nil {
		return err
	}
	client, err := kafka.Dial(o.conf.producer.Opts(o.conf.conn))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	if _, _, err := client.ProducerID(ctx); err != nil {
		client.Close()
		return b.explainFence(err)
	}
	b.client = client
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

// stake signs the marks that are there, before anything else is looked at: the
// instance that this one has fenced learns from them that it was taken over,
// even if this one cannot relay yet.
func (b *bearing) stake(ctx context.Context) error {
	if b.client == nil {
		return nil
	}
	var records []*kgo.Record
	for _, k := range b.keys {
		e, ok := b.marks[k]
		if !ok || e.Mark.Instance == b.out.instance {
			continue
		}
		e.Mark.Generation, e.Mark.Instance = b.out.generation, b.out.instance
		records = append(records, markRecord(b.progress.Name, k, e.Mark))
	}
	if len(records) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstMarksTimeout)
	defer cancel()
	return inTransaction(ctx, b.client, func() error {
		_, err := produceMarks(ctx, b.client, records)
		return err
	})
}

// yield finds out whether another instance has fenced this one.
func (b *bearing) yield(ctx context.Context) error {
	if err := b.each(ctx, b.loadMarks, b.claim); err != nil {
		return err
	}
	if since := time.Since(b.out.fencedAt); since < standAside {
		return fmt.Errorf("the target has taken this relay's transactions away (another instance with relay_id %q, or a transaction open for longer than transaction_timeout): waiting %s to see whose they are", b.standing.RelayID, standAside)
	}
	b.out.fencedAt = time.Time{}
	return nil
}

func (b *bearing) explainFence(err error) error {
	o := b.out
	switch {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return &position.Stop{
			Reason: fmt.Sprintf("the target does not let this relay use transactional.id %q", o.conf.producer.TransactionalID),
			Cure:   fmt.Sprintf("allow it: kafka-acls.sh --bootstrap-server %s --add --allow-principal User:... --operation Write --operation Describe --transactional-id %s", o.conf.conn.SeedBrokers[0], o.conf.producer.TransactionalID),
		}
	case errors.Is(err, kerr.InvalidTransactionTimeout):
		return &position.Stop{
			Reason: fmt.Sprintf("transaction_timeout is %s, which is more than the target allows", o.conf.producer.TransactionTimeout),
			Cure:   "lower it, or raise transaction.max.timeout.ms of the brokers",
		}
	}
	return fmt.Errorf("becoming the producer of transactional.id %q: %w", o.conf.producer.TransactionalID, err)
}
