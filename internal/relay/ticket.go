package relay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
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
// turn on; lands; is acknowledged through Benthos. One that has joined a
// transaction keeps its place in the window until that is over.
type Ticket struct {
	gen     *Generation
	number  uint64
	bytes   int
	payload int // of bytes: what stays of it once the messages are gone
	records int
	spans   []Span
	entries []*position.Entry
	// sources are those of the batch, if the generation is direct.
	sources []record.Source
	// filtered counts the records that filters took out under their own name.
	filtered atomic.Int64
	// The rest is under gen.mu.
	claimed bool
	handed  bool
	landed  bool
	acked   bool
	// joined is set while the ticket is in a transaction that is neither
	// committed nor given up; it is called at Benthos' acknowledgement.
	joined func()
	failed error
}

type ticketKey struct{}

// ErrEarlyAck is what a batch gets that was acknowledged before the output had
// it.
var ErrEarlyAck = errors.New("acknowledged too early")

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
// its name for errors. ErrBroken means that the output it was meant for has
// closed; ErrEarlyAck that positions were moved too early; any other error that
// the pipeline does something to batches that order cannot survive.
func (t *Ticket) Claim(target Target, component string) error {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case t.acked && t.failed == nil:
		return fmt.Errorf("%w: a batch reached %s after it had been acknowledged: something between input and output acknowledges early (a buffer, or an input broker with batching); remove it, or a crash would lose what it holds", ErrEarlyAck, component)
	case t.claimed:
		return fmt.Errorf("a batch reached %s twice: something between input and output splits or repeats batches (split, group_by, output batching, retry, or a broker); remove it, since order cannot be kept across it", component)
	}
	switch {
	case g.alone != nil:
		return errNotAlone(component)
	case g.broken != nil, g.target != target && g.target.Left():
		return ErrBroken
	case g.target != target:
		return errSecondOutput(component)
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
// slot; a negative one stands for partitions that no route leads to.
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
		if x.Slot < 0 { // no partition of the route's topic
			continue
		}
		g.tracker.Hand(t.entries[x.Span], x.Slot)
	}
	t.handed = true
	if g.inFlight++; g.inFlight == 1 {
		g.progress = time.Now()
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
		if x.Slot < 0 {
			continue
		}
		g.tracker.Landed(t.entries[x.Span], x.Slot, ends[i])
	}
	t.landed = true
	g.landed(t)
}

func (g *Generation) landed(t *Ticket) {
	if t.handed {
		t.handed = false
		g.inFlight--
		g.progress = time.Now()
	}
}

// Join notes that the ticket's records are part of a transaction: the ticket is
// not done before Leave. acked is called once Benthos has acknowledged the batch
// as delivered: only then it is certain that nothing else of it is on its way
// elsewhere.
func (t *Ticket) Join(acked func()) {
	t.gen.mu.Lock()
	defer t.gen.mu.Unlock()
	if !t.acked { // else it was acknowledged too early, which ends the relay
		t.joined = acked
	}
}

// Settle notes, within a transaction that is about to be committed, that the
// ticket is done if it is.
func (t *Ticket) Settle() {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range t.entries {
		g.tracker.Done(e)
	}
}

// Leave ends what Join began, once the transaction is committed or, with the
// generation broken, given up.
func (t *Ticket) Leave() {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.joined == nil {
		return
	}
	t.joined = nil
	if t.acked {
		t.release()
	}
}

// Payload is how many bytes of records the ticket stands for.
func (t *Ticket) Payload() int { return t.payload }

// Filtered notes that a filter took n records out and has counted them.
func (t *Ticket) Filtered(n int) { t.filtered.Add(int64(n)) }

// Missing is how many of the batch's records neither arrived nor were counted
// by a filter: something else took them out.
func (t *Ticket) Missing(arrived int) int64 {
	return max(0, int64(t.records-arrived)-t.filtered.Load())
}

// Fail says that the output will not deliver the ticket, and breaks its
// generation. The output then returns no error to Benthos: the input learns of
// it from the generation, and says so once. An error would be logged for each
// batch, and would make wrappers (retry, fallback, broker) send the batch again
// or elsewhere, behind later ones.
func (t *Ticket) Fail(err error) {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	t.failed = err
	g.landed(t)
	g.breakLocked(err)
}

// Ack is Benthos' answer to the batch, brought by the input: nil if everything
// was delivered or filtered. A refusal that our output did not cause is fatal:
// reading the batch again would put it behind later ones.
//
// It returns how many records something other than filters took out of a batch
// that never reached the output.
func (t *Ticket) Ack(err error) (missing int64) {
	missing, joined := t.ack(err)
	if joined != nil {
		joined()
	}
	return missing
}

// ack returns also what is to be called, outside the lock, of a ticket that is
// in a transaction.
func (t *Ticket) ack(err error) (missing int64, joined func()) {
	g := t.gen
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.acked {
		return 0, nil
	}
	t.acked = true
	if g.alone != nil {
		t.ackAlone(err)
		return 0, nil
	}
	if err == nil && !t.claimed {
		missing = t.Missing(0)
	}
	switch {
	case err == nil && !t.claimed && len(t.sources) > 0 && g.Direct: // filters leave none
		t.failed = ErrNotDirect
		g.disownLocked(fmt.Errorf("a batch of %s never reached the output: %w", t.describe(), ErrNotDirect), false)
	case err == nil:
	case errors.Is(err, context.Canceled) && !t.claimed: // a stop, or a wrapper that gave up
		t.failed = err
		g.breakLocked(err)
	default: // the output returns no error, so this is somebody else's
		t.failed = err
		g.disownLocked(fmt.Errorf("a batch of %s was refused by something other than the kafka_failover output: %v; remove what refuses it (error_handling.strict, a reject output, a processor that nacks)", t.describe(), err), false) //nolint:errorlint // Benthos unwraps a batch error and would drop this text
	}
	switch {
	case t.joined == nil:
		t.release()
	case t.failed != nil:
	case !t.landed:
		t.early()
	default:
		t.lighten()
		return missing, t.joined
	}
	return missing, nil
}

// lighten gives up the records, and what the messages took of the window, of a
// ticket that stays for its transaction alone.
func (t *Ticket) lighten() {
	t.gen.held -= t.bytes - t.payload
	t.bytes = t.payload
	t.sources = nil
	t.gen.wake()
}

func (t *Ticket) early() {
	t.gen.disownLocked(fmt.Errorf("%w: a batch of %s was acknowledged while it was being written: remove what acknowledges early", ErrEarlyAck, t.describe()), true)
}

// release gives the ticket's place in the window back, and counts what was
// delivered or filtered as done.
func (t *Ticket) release() {
	g := t.gen
	g.outstanding--
	g.held -= t.bytes
	if t.failed == nil && (t.claimed || g.broken == nil) {
		t.done()
	}
	g.wake()
}

// done must be called under the lock.
func (t *Ticket) done() {
	g := t.gen
	switch {
	case g.Strict && !t.claimed:
		g.fatalLocked(fmt.Errorf("all records of a batch of %s were filtered, which resume: watermark cannot keep track of; use resume: auto", t.describe()))
		return
	case t.claimed && !t.landed:
		t.early()
		return
	}
	for _, e := range t.entries {
		g.tracker.Done(e)
	}
	g.pass(t.number)
	g.sinceMark += t.bytes
	if g.sinceMark >= markBytes {
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
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
