package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// markBytes is how many acknowledged bytes call for new marks before the clock
// does: it bounds what a boot reads back.
const markBytes = 64 << 20

// Ticket is a batch's place in the order of reading. It rides in the context of
// every message of the batch; processors may run in any order, but batches are
// handed to the producer by ticket.
//
// Its life: issued by the input; claimed by the output (unless every message
// was filtered); waits for its turn; its records are handed over; passes the
// turn on; lands; is acknowledged through Benthos.
type Ticket struct {
	gen     *Generation
	number  uint64
	bytes   int
	spans   []Span
	entries []*position.Entry
	// The rest is under gen.mu.
	claimed bool
	acked   bool
	failed  error
}

type ticketKey struct{}

// WithTicket returns a context that carries t.
func WithTicket(ctx context.Context, t *Ticket) context.Context {
	return context.WithValue(ctx, ticketKey{}, t)
}

// TicketFrom returns the ticket a message's context carries, or nil.
func TicketFrom(ctx context.Context) *Ticket {
	t, _ := ctx.Value(ticketKey{}).(*Ticket)
	return t
}

// Generation the ticket belongs to.
func (t *Ticket) Generation() *Generation { return t.gen }

// Spans are the runs of offsets in the ticket; a message's record.Source names
// its own by index.
func (t *Ticket) Spans() []Span { return t.spans }

// Number is the ticket's place in the order of reading within its generation.
func (t *Ticket) Number() uint64 { return t.number }

// Claim is the output's first act on a batch: target is the caller, component
// its name for errors. An error means that the pipeline does something to
// batches that order cannot survive.
func (t *Ticket) Claim(target Target, component string) error {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.target != target:
		return errSecondOutput(component)
	case t.acked:
		return fmt.Errorf("a batch reached %s after it had been acknowledged: something between input and output acknowledges early (a buffer, or an input broker with batching); remove it, or a crash would lose what it holds", component)
	case t.claimed:
		return fmt.Errorf("a batch reached %s twice: something between input and output splits or repeats batches (split, group_by, output batching, retry, or a broker); remove it, since order cannot be kept across it", component)
	}
	t.claimed = true
	return nil
}

// Turn waits until all earlier tickets have been handed over or filtered.
func (t *Ticket) Turn(ctx context.Context) error {
	g := t.gen
	g.mu.Lock()
	if g.broken != nil {
		g.mu.Unlock()
		return ErrBroken
	}
	if g.turn == t.number {
		g.mu.Unlock()
		return nil
	}
	c := make(chan struct{})
	g.waiters[t.number] = c
	g.mu.Unlock()
	select {
	case <-c:
	case <-ctx.Done():
		return ctx.Err()
	}
	if g.Broken() != nil {
		return ErrBroken
	}
	return nil
}

// Touch says that the ticket writes records of the span at index Span into a
// slot; Last is the span's last record in the batch.
type Touch struct {
	Span, Slot int
}

// Hand notes, within the turn and before the first record is handed to the
// producer, what the ticket is about to write.
func (t *Ticket) Hand(touches []Touch) error {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return ErrBroken
	}
	for _, x := range touches {
		g.tracker.Hand(t.entries[x.Span], x.Slot)
	}
	if g.handed.IsZero() {
		g.handed = time.Now()
	}
	return nil
}

// Prev returns the offset handed over last of the span's partition and puts
// last in its place. Only the ticket whose turn it is may call it.
func (t *Ticket) Prev(span int, last int64) int64 {
	g := t.gen
	part := t.spans[span].Part
	prev := g.prev[part]
	g.prev[part] = last
	return prev
}

// Pass lets the next ticket have its turn.
func (t *Ticket) Pass() {
	t.gen.mu.Lock()
	defer t.gen.mu.Unlock()
	t.gen.pass(t.number)
}

func (g *Generation) pass(n uint64) {
	if n < g.turn || g.broken != nil {
		return
	}
	g.passed[n] = struct{}{}
	for {
		if _, ok := g.passed[g.turn]; !ok {
			break
		}
		delete(g.passed, g.turn)
		g.turn++
	}
	if c, ok := g.waiters[g.turn]; ok {
		delete(g.waiters, g.turn)
		close(c)
	}
}

// Landed notes that all the ticket handed over is acknowledged: ends holds,
// per touch, the end offset of the ticket's records in that slot.
func (t *Ticket) Landed(touches []Touch, ends []int64) {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, x := range touches {
		g.tracker.Landed(t.entries[x.Span], x.Slot, ends[i])
	}
	g.handed = time.Now()
}

// Fail says that the output will not deliver the ticket, and breaks its
// generation. It returns err for the output to return.
func (t *Ticket) Fail(err error) error {
	t.gen.mu.Lock()
	t.failed = err
	t.gen.mu.Unlock()
	t.gen.Break(err)
	return err
}

// Ack is Benthos' answer to the batch, brought by the input: nil if everything
// was delivered or filtered. A refusal that our output did not cause is fatal:
// reading the batch again would put it behind later ones.
func (t *Ticket) Ack(err error) {
	g := t.gen
	g.mu.Lock()
	if t.acked {
		g.mu.Unlock()
		return
	}
	t.acked = true
	g.outstanding--
	g.held -= t.bytes
	var fatal error
	switch {
	case err == nil && t.failed == nil:
		fatal = t.done()
	case t.failed == nil && g.broken == nil && !errors.Is(err, context.Canceled):
		fatal = fmt.Errorf("a batch of %s was refused by something other than the kafka_failover output: %v; remove what refuses it (error_handling.strict, a reject output, a processor that nacks)", t.describe(), err) //nolint:errorlint // Benthos unwraps a batch error and would drop this text
	}
	if g.outstanding == 0 {
		g.handed = time.Time{}
	}
	g.wake()
	g.mu.Unlock()
	if fatal != nil {
		g.Fatal(fatal)
	}
}

// done must be called under the lock.
func (t *Ticket) done() error {
	g := t.gen
	if g.Strict && !t.claimed {
		return fmt.Errorf("all records of a batch of %s were filtered, which resume: watermark cannot keep track of; use resume: auto", t.describe())
	}
	for _, e := range t.entries {
		g.tracker.Done(e)
	}
	g.pass(t.number)
	g.acked++
	g.sinceMark += t.bytes
	if g.sinceMark >= markBytes {
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
	return nil
}

func (t *Ticket) describe() string {
	if len(t.spans) == 0 {
		return "no partition"
	}
	s := t.spans[0]
	text := fmt.Sprintf("source partition %s before offset %d", t.gen.Parts[s.Part].Source, s.Next)
	if n := len(t.spans) - 1; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}
