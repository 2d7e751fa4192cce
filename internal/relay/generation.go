package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// MaxBatches is how many batches Benthos may hold unacknowledged. The window
// proper is counted in bytes; this bound is what the output tells Benthos, so
// that many small polls do not starve it.
const MaxBatches = 1024

// ErrBroken is what tickets of a generation get once a write of it has failed:
// the generation ends and the next one starts from where the target stands.
var ErrBroken = errors.New("an earlier write failed, and the relay goes on from where the target stands")

// Generation is the time between two recoveries: one producer, one sequence of
// tickets, one set of positions.
type Generation struct {
	// TargetID is the target's cluster ID.
	TargetID     string
	RelayID      string
	OriginHeader string
	// Strict: every record must land at its own offset (resume: watermark).
	Strict bool
	// Standard: the input sets standard metadata on every message.
	Standard bool
	// Direct: a batch is one message, and its ticket carries the source records.
	Direct bool
	Parts  []Part
	Slots  []position.TP

	seat        *Seat
	target      Target
	alone       *Alone // nil with a kafka_failover output
	windowBytes int

	mu          sync.Mutex
	changed     chan struct{} // closed and replaced at each change somebody waits for
	tracker     *position.Tracker
	issued      uint64 // tickets issued so far; the next one gets this number
	issuedAt    time.Time
	turn        uint64 // whose turn it is to hand over
	passed      map[uint64]struct{}
	waiters     map[uint64]chan struct{}
	starts      []int64   // per part: where it began
	prev        []int64   // per part: the offset handed over last
	outstanding int       // tickets not acknowledged
	held        int       // their bytes
	sinceMark   int       // bytes acknowledged since the last marks
	inFlight    int       // tickets handed over and not landed
	progress    time.Time // when the last one was handed over first, or landed
	blocks      int64
	broken      error
	// disowned says that what landed may not be what is done (see Disown).
	disowned *Disowned
	down     error // the target does not answer; nothing is lost by it
	trouble  chan struct{}
	kick     chan struct{}
}

// Plan is what a Generation starts from.
type Plan struct {
	Standing    *Standing
	Starts      []position.PartStart
	WindowBytes int
	Strict      bool
	Standard    bool
	Direct      bool
	// Alone is set where no kafka_failover output takes part.
	Alone *Alone
}

// NewGeneration makes a generation; target.Begin must follow.
func NewGeneration(seat *Seat, target Target, p Plan) *Generation {
	g := &Generation{
		TargetID:     p.Standing.ClusterID,
		RelayID:      p.Standing.RelayID,
		OriginHeader: p.Standing.OriginHeader,
		Strict:       p.Strict,
		Standard:     p.Standard,
		Direct:       p.Direct,
		Slots:        p.Standing.Slots,
		seat:         seat,
		target:       target,
		alone:        p.Alone,
		windowBytes:  p.WindowBytes,
		changed:      make(chan struct{}),
		tracker:      position.NewTracker(p.Starts, p.Standing.Ends),
		passed:       map[uint64]struct{}{},
		waiters:      map[uint64]chan struct{}{},
		trouble:      make(chan struct{}),
		kick:         make(chan struct{}, 1),
	}
	for i, ps := range p.Standing.Parts {
		g.Parts = append(g.Parts, ps.Part)
		g.starts = append(g.starts, p.Starts[i].Next)
		g.prev = append(g.prev, p.Starts[i].Next-1)
	}
	return g
}

// waitFor blocks until cond, called under the lock, is true or ctx ends.
func (g *Generation) waitFor(ctx context.Context, cond func() bool) error {
	for {
		g.mu.Lock()
		if cond() {
			g.mu.Unlock()
			return nil
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wake must be called under the lock.
func (g *Generation) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Span is a run of offsets of one part that goes into a ticket: everything
// from where the part was read last up to Next.
type Span struct {
	Part int
	Next int64
	Pair position.Pair // of its last record
	// First and Last are the timestamps of its first and last record.
	First, Last time.Time
}

// Load is what a batch weighs.
type Load struct {
	Records int
	Payload int // bytes of the records
	Bytes   int // what they take of the window with all that is made of them
}

// Issue gives out the next ticket once the window has room for the load. It
// returns ErrBroken, or what makes the target unreachable, instead of waiting
// longer than either.
func (g *Generation) Issue(ctx context.Context, load Load, spans []Span) (*Ticket, error) {
	var bad error
	blocked := false
	err := g.waitFor(ctx, func() bool {
		if bad = g.bad(); bad != nil {
			return true
		}
		room := g.outstanding == 0 || (g.held+load.Bytes <= g.windowBytes && g.outstanding < g.mostBatches())
		if !room && !blocked {
			blocked = true
			g.blocks++
		}
		return room
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t := &Ticket{
		gen: g, number: g.issued, bytes: load.Bytes, payload: load.Payload, records: load.Records,
		spans: spans, entries: make([]*position.Entry, len(spans)),
	}
	for i, s := range spans {
		t.entries[i] = g.tracker.Read(s.Part, s.Next, &s.Pair)
		t.entries[i].Date(s.First, s.Last)
	}
	g.issued++
	g.issuedAt = time.Now()
	g.outstanding++
	g.held += load.Bytes
	return t, nil
}

// Skip moves part over a stretch that holds no records.
func (g *Generation) Skip(part int, next int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tracker.Skip(part, next)
}

// Positions are the next offsets to relay: everything before is done.
func (g *Generation) Positions() map[position.TP]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[position.TP]int64, len(g.Parts))
	for i := range g.Parts {
		out[g.Parts[i].Source] = g.tracker.Next(i)
	}
	return out
}

// Samples are fingerprints of what was read of part, the last record among
// them.
func (g *Generation) Samples(part int) []position.Pair {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tracker.Samples(part)
}

// ReadFrom notes which cluster part is read from now; the next mark says so.
func (g *Generation) ReadFrom(part int, id position.SourceID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Parts[part].Sources = position.Remember(g.Parts[part].Sources, id)
}

// SourcesOf are the clusters part was read from, the present one last.
func (g *Generation) SourcesOf(part int) []position.SourceID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Parts[part].Sources
}

// Break ends the generation: no further ticket is handed over. What is under
// way ends by itself. The first reason stays.
func (g *Generation) Break(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.breakLocked(err)
}

func (g *Generation) breakLocked(err error) {
	if g.broken != nil {
		return
	}
	g.broken = err
	for n, c := range g.waiters {
		delete(g.waiters, n)
		close(c)
	}
	g.markTrouble()
	g.wake()
}

// Fatal breaks the generation and stops the relay for good.
func (g *Generation) Fatal(err error) {
	g.seat.Fail(err)
	g.Break(err)
}

// Disowned is a finding that ends the relay: something between input and output
// refuses messages, repeats or splits batches, or acknowledges them early. Then
// a record missing from a batch was not filtered, and neither the positions nor
// the chain of what landed can be trusted. Before the stop is told, marks are
// written that prove no more than is certain.
type Disowned struct {
	Err error
	// FromStart: not even what was acknowledged is certain.
	FromStart bool
}

// Disown breaks the generation. The output's next Stand, or its Close, writes
// the marks and then stops the relay.
func (g *Generation) Disown(err error, fromStart bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.disownLocked(err, fromStart)
}

func (g *Generation) disownLocked(err error, fromStart bool) {
	if g.disowned == nil {
		g.disowned = &Disowned{Err: err}
	}
	g.disowned.FromStart = g.disowned.FromStart || fromStart
	g.breakLocked(err)
}

// Disowned is the finding, or nil.
func (g *Generation) Disowned() *Disowned {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.disowned
}

// Certain returns the positions that stay certain after d, where marks follow
// the records.
func (g *Generation) Certain(d *Disowned) []int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]int64, len(g.Parts))
	for i := range out {
		out[i] = g.starts[i]
		if !d.FromStart {
			out[i] = g.tracker.Next(i)
		}
	}
	return out
}

// PairsBefore are the samples of a part below an offset.
func (g *Generation) PairsBefore(part int, next int64) []position.Pair {
	g.mu.Lock()
	defer g.mu.Unlock()
	pairs := g.tracker.State(part).Pairs
	return slices.DeleteFunc(pairs, func(p position.Pair) bool { return p.Offset >= next })
}

func (g *Generation) fatalLocked(err error) {
	g.seat.Fail(err)
	g.breakLocked(err)
}

// SetDown says that the target does not answer, or with nil that it does
// again. The relay is unready meanwhile; nothing else changes.
func (g *Generation) SetDown(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if (g.down == nil) == (err == nil) {
		return
	}
	g.down = err
	if err != nil {
		g.markTrouble()
	} else if g.broken == nil {
		g.trouble = make(chan struct{})
	}
	g.wake()
}

func (g *Generation) markTrouble() {
	select {
	case <-g.trouble:
	default:
		close(g.trouble)
	}
}

func (g *Generation) bad() error {
	if g.broken != nil {
		return ErrBroken
	}
	return g.down
}

// Trouble is closed when the generation breaks or the target stops answering.
func (g *Generation) Trouble() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.trouble
}

// Broken is why the generation ended, or nil.
func (g *Generation) Broken() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.broken
}

// Down is why the target counts as unreachable, or nil.
func (g *Generation) Down() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.down
}

// AwaitUp waits until the target answers again, or the generation breaks.
func (g *Generation) AwaitUp(ctx context.Context) error {
	return g.waitFor(ctx, func() bool { return g.down == nil || g.broken != nil })
}

// Blocks is how often a full window has held the input back.
func (g *Generation) Blocks() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.blocks
}

// Drained waits until every ticket is acknowledged or refused.
func (g *Generation) Drained(ctx context.Context) error {
	return g.waitFor(ctx, func() bool { return g.outstanding == 0 })
}

// DrainedOrTrouble waits for the same, but not beyond any trouble.
func (g *Generation) DrainedOrTrouble(ctx context.Context) (bool, error) {
	ok := false
	err := g.waitFor(ctx, func() bool {
		ok = g.outstanding == 0 && g.broken == nil
		return ok || g.bad() != nil
	})
	return ok, err
}

// Rest tells how many tickets are out, and since when none was issued.
func (g *Generation) Rest() (outstanding int, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.outstanding, g.issuedAt
}

// Backlog is where a part stands.
type Backlog struct {
	// Next is the next offset to relay: everything before is done.
	Next int64
	// Since is the timestamp of the first record read and not done, or of the
	// last one done; zero before the first.
	Since time.Time
}

// Load returns where each part stands, and how many bytes of the window are in
// use.
func (g *Generation) Load() (parts []Backlog, held int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	parts = make([]Backlog, len(g.Parts))
	for i := range parts {
		parts[i] = Backlog{g.tracker.Next(i), g.tracker.Oldest(i)}
	}
	return parts, g.held
}

// WindowBytes is the window.
func (g *Generation) WindowBytes() int { return g.windowBytes }

// Touch notes that the target has taken something.
func (g *Generation) Touch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.progress = time.Now()
}

// Statements returns what new marks may say, for the parts whose position has
// moved; all of them says so for every part. A broken generation says nothing,
// and false, unless acknowledgements are all there is (Alone).
func (g *Generation) Statements(all bool) ([]position.Statement, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sinceMark = 0
	if g.broken != nil && g.alone == nil {
		return nil, false
	}
	if !all {
		return g.tracker.Changed(), true
	}
	g.tracker.Changed()
	out := make([]position.Statement, len(g.Parts))
	for i := range g.Parts {
		out[i] = g.tracker.State(i)
	}
	return out, true
}

// MarkDue is signalled when so many bytes were acknowledged since the last
// marks that new ones should not wait for the clock.
func (g *Generation) MarkDue() <-chan struct{} { return g.kick }

// Stalled returns how long the producer has had batches without one of them
// being acknowledged; 0 if it has none.
func (g *Generation) Stalled(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inFlight == 0 {
		return 0
	}
	return now.Sub(g.progress)
}

// errSecondOutput explains a ticket that reached the wrong output.
func errSecondOutput(component string) error {
	return fmt.Errorf("two kafka_failover outputs share one relay, and a batch reached %s, which is not the one its input asked: give each pair of input and output a `relay` name of its own", component)
}
