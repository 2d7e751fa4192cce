package output

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// transactor groups the batches of a commit interval into one transaction with
// the marks of their source partitions. Batches join in their turn; while a
// transaction is being committed the next one waits, and with it all behind it.
//
// A batch that has landed is given back to Benthos before the commit, so that
// its messages need not be kept until then: if the transaction fails they are
// read again. Only when Benthos has acknowledged it, it may be committed: before,
// part of it may be elsewhere. Its ticket stays out, and with it its place in the
// window and the position, until the commit.
type transactor struct {
	s    *session
	quit chan struct{} // closed when nothing more will join
	stop func()        // closes quit, once
	over chan struct{} // closed when run has ended

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	current *transaction  // nil while none is open
	closing bool          // the current one takes no more batches
	urgent  bool          // it is to be committed at once
	failed  error
	written map[metrics.Path]int64 // records acknowledged in the current one
}

// transaction is one of them.
type transaction struct {
	began   time.Time
	tickets []*relay.Ticket
	bytes   int
	acked   int           // of the tickets: landed, and acknowledged by Benthos
	done    chan struct{} // closed once it is committed, or never will be
	err     error
}

func newTransactor(s *session) *transactor {
	x := &transactor{s: s, quit: make(chan struct{}), over: make(chan struct{}), changed: make(chan struct{}), written: map[metrics.Path]int64{}}
	x.stop = sync.OnceFunc(func() { close(x.quit) })
	return x
}

// wake must be called under the lock.
func (x *transactor) wake() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// join adds a batch, whose turn it is, to the open transaction, or begins one.
func (x *transactor) join(ctx context.Context, t *relay.Ticket) error {
	for {
		x.mu.Lock()
		switch {
		case x.failed != nil:
			x.mu.Unlock()
			return relay.ErrBroken
		case !x.closing:
			tx, err := x.begin()
			if err == nil {
				t.Join(func() { x.acked(tx) })
				tx.tickets = append(tx.tickets, t)
				tx.bytes += t.Payload()
				x.wake()
			}
			x.mu.Unlock()
			return err
		}
		changed := x.changed
		x.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-x.s.aborted:
			return relay.ErrBroken
		}
	}
}

// begin returns the open transaction; it must be called under the lock.
func (x *transactor) begin() (*transaction, error) {
	if x.current != nil {
		return x.current, nil
	}
	if err := x.s.client.BeginTransaction(); err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	x.current = &transaction{began: time.Now(), done: make(chan struct{})}
	return x.current, nil
}

// acked notes that a batch of tx has landed and is acknowledged.
func (x *transactor) acked(tx *transaction) {
	x.mu.Lock()
	defer x.mu.Unlock()
	tx.acked++
	x.wake()
}

// await waits until tx is committed.
func (x *transactor) await(ctx context.Context, tx *transaction) error {
	select {
	case <-tx.done:
		return tx.err
	case <-ctx.Done():
		return ctx.Err()
	case <-x.s.aborted:
		return relay.ErrBroken
	}
}

const (
	// restFor without a new batch means that nothing is on its way.
	restFor = 20 * time.Millisecond
	// lookEvery is how often an open transaction is looked at.
	lookEvery = 2 * time.Millisecond
)

// run commits transactions as they become due, and marks that have moved
// without any record: filtered ones.
func (x *transactor) run(ctx context.Context) {
	defer close(x.over)
	last := time.Now() // of the last commit
	for {
		x.mu.Lock()
		changed, tx := x.changed, x.current
		x.mu.Unlock()
		wait := max(time.Millisecond, x.s.out.conf.commitInterval-time.Since(last))
		if tx != nil {
			wait = min(lookEvery, max(time.Millisecond, x.s.out.conf.commitInterval-time.Since(tx.began)))
		}
		timer := time.NewTimer(wait)
		select {
		case <-x.quit:
			timer.Stop()
			return
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
		switch {
		case x.s.gen.Broken() != nil:
			x.fail(relay.ErrBroken)
			x.abort()
			return
		case tx != nil && !x.due(tx), tx == nil && time.Since(last) < x.s.out.conf.commitInterval:
			continue
		}
		if err := x.commit(ctx); err != nil {
			if ctx.Err() == nil {
				x.s.gen.Break(err)
			}
			x.fail(err)
			x.abort()
			return
		}
		last = time.Now()
	}
}

// due tells whether the open transaction is to be committed now: its time is
// up, half the window is in it, or nothing else is on its way.
func (x *transactor) due(tx *transaction) bool {
	outstanding, since := x.s.gen.Rest()
	x.mu.Lock()
	defer x.mu.Unlock()
	all := tx.acked == len(tx.tickets)
	return x.urgent || time.Since(tx.began) >= x.s.out.conf.commitInterval || tx.bytes >= x.s.gen.WindowBytes()/2 ||
		(all && outstanding == len(tx.tickets) && time.Since(since) >= restFor)
}

// commit ends the open transaction, or one with marks only if they have moved:
// no batch joins any more, those that did are waited for, marks follow, and all
// is committed.
func (x *transactor) commit(ctx context.Context) error {
	x.mu.Lock()
	tx := x.current
	x.closing = true
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		x.closing = false
		x.wake()
		x.mu.Unlock()
	}()
	if tx != nil {
		if err := x.allAcked(ctx, tx); err != nil {
			return err
		}
		for _, t := range tx.tickets {
			t.Settle()
		}
	}
	statements, ok := x.s.gen.Statements(false)
	if !ok { // without marks nothing may be committed
		return relay.ErrBroken
	}
	if tx == nil {
		if len(statements) == 0 {
			return nil
		}
		x.mu.Lock()
		var err error
		tx, err = x.begin()
		x.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if _, err := x.s.writeMarks(ctx, statements); err != nil {
		return err
	}
	if err := x.s.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("committing a transaction: %w", err)
	}
	x.committed()
	tx.over(nil)
	return nil
}

// count notes records of the open transaction that were acknowledged: before the
// batch they are in is, so before the commit.
func (x *transactor) count(p metrics.Path, n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.written[p] += n
}

// committed notes that the open transaction is committed, and counts what was
// written in it.
func (x *transactor) committed() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.current, x.urgent = nil, false
	for p, n := range x.written {
		x.s.out.metrics.Relayed(p, n)
	}
	clear(x.written)
	x.s.out.metrics.Marked()
}

// over tells everybody that the transaction is committed, or given up.
func (tx *transaction) over(err error) {
	tx.err = err
	for _, t := range tx.tickets {
		if err != nil {
			t.Fail(err)
		}
		t.Leave()
	}
	close(tx.done)
}

// allAcked waits until all batches of tx are acknowledged.
func (x *transactor) allAcked(ctx context.Context, tx *transaction) error {
	for {
		x.mu.Lock()
		left, changed := len(tx.tickets)-tx.acked, x.changed
		x.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-x.s.gen.Trouble():
			if x.s.gen.Broken() != nil {
				return relay.ErrBroken
			}
			select { // the target does not answer: it is waited for
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(lookEvery):
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fail ends the transactor: what is open will not be committed.
func (x *transactor) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed == nil {
		x.failed = err
	}
	if x.current != nil {
		x.current.over(relay.ErrBroken)
		x.current = nil
	}
	x.wake()
}

// flush has the open transaction committed and waits for it.
func (x *transactor) flush(ctx context.Context) error {
	x.mu.Lock()
	tx := x.current
	x.urgent = tx != nil
	x.wake()
	x.mu.Unlock()
	if tx == nil {
		return nil
	}
	return x.await(ctx, tx)
}

// end commits what is open if the generation ends in good order, and aborts it
// otherwise, so that readers of committed records need not wait for it.
func (x *transactor) end(ctx context.Context) {
	x.stop()
	select {
	case <-x.over:
	case <-ctx.Done():
		return
	}
	x.mu.Lock()
	ended := x.failed != nil
	x.mu.Unlock()
	if ended {
		return
	}
	var err error
	if x.s.gen.Broken() == nil && x.s.gen.Down() == nil {
		err = x.commit(ctx)
	}
	x.mu.Lock()
	open := x.current != nil
	x.mu.Unlock()
	x.fail(relay.ErrBroken)
	if open {
		x.abort()
		x.s.out.log.Warnf("The last transaction was not committed, and is relayed again at the next start: %v", cmp.Or(err, x.s.gen.Broken(), x.s.gen.Down()))
	}
}

// abort gives up what is open, so that readers of committed records need not
// wait for the target to do it.
func (x *transactor) abort() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = x.s.client.AbortBufferedRecords(ctx)
	if err := x.s.client.EndTransaction(ctx, kgo.TryAbort); err != nil {
		x.s.out.log.Debugf("An open transaction was not aborted, the target does it after transaction_timeout: %v", err)
	}
}

// fenced tells whether an error means that another producer has taken the
// transactional ID, or that the target has given this one up.
func fenced(err error) bool {
	for _, e := range []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.TransactionalIDNotFound} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
