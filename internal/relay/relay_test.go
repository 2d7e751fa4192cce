package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseRoutes(t *testing.T) {
	got, err := ParseRoutes([]string{"orders", "a:b", "c:d:7", "e:f:auto"})
	want := []Route{{"orders", "orders", SamePartition, 0}, {"a", "b", SamePartition, 0}, {"c", "d", FixedPartition, 7}, {"e", "f", ByKey, 0}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	for i, s := range []string{"orders", "a:b", "c:d:7", "e:f:auto"} {
		if got[i].String() != s {
			t.Errorf("%q reads back as %q", s, got[i])
		}
	}
	for _, bad := range [][]string{{}, {""}, {"a:"}, {":b"}, {"a:b:"}, {"a:b:-1"}, {"a:b:x"}, {"a:b:0:1"}, {"a b"}, {".."}, {"a", "a:b"}, {"a/b"}, {strings.Repeat("x", 250)}} {
		if _, err := ParseRoutes(bad); err == nil {
			t.Errorf("%q is taken for routes", bad)
		}
	}
}

// target stands in for an output where only its identity counts.
type target struct{ Target }

func (*target) Left() bool { return false }

func (*target) LastRecord(context.Context, position.TP) (*kgo.Record, error) { return nil, nil }

func newTestGeneration(window int) (*Generation, *Hub) {
	h := &Hub{name: "test"}
	seat := h.AnnounceInput(false)
	st := &Standing{RelayID: "r", OriginHeader: "_origin", Slots: []position.TP{{Topic: "t"}}, Ends: []int64{0},
		Parts: []PartStanding{{Part: Part{Source: position.TP{Topic: "s"}, Slots: 1}}}}
	return NewGeneration(seat, &target{}, Plan{Standing: st, Starts: []position.PartStart{{Slots: []int{0}}}, WindowBytes: window}), h
}

func issue(t *testing.T, g *Generation, bytes int, next int64) *Ticket {
	t.Helper()
	tk, err := g.Issue(context.Background(), Load{Records: 1, Payload: bytes, Bytes: bytes}, []Span{{Part: 0, Next: next}})
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

// However the goroutines run, turns come in the order of issue, and filtered
// tickets pass by being acknowledged.
func TestTurnsComeInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	g, _ := newTestGeneration(1 << 30)
	const n = 500
	tickets := make([]*Ticket, n)
	for i := range tickets {
		tickets[i] = issue(t, g, 1, int64(i+1))
	}
	var mu sync.Mutex
	var order []uint64
	var wg sync.WaitGroup
	for _, i := range r.Perm(n) {
		tk := tickets[i]
		filtered := r.IntN(4) == 0
		wg.Go(func() {
			if !filtered {
				if err := tk.Turn(context.Background()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, tk.Number())
				mu.Unlock()
				tk.Pass()
			}
			tk.Ack(nil)
		})
	}
	wg.Wait()
	for i := 1; i < len(order); i++ {
		if order[i] <= order[i-1] {
			t.Fatalf("ticket %d had its turn after %d", order[i], order[i-1])
		}
	}
	if st, _ := g.Statements(true); st[0].Next != n {
		got := st[0].Next
		t.Fatalf("position %d, want %d", got, n)
	}
}

func TestWindowHoldsBack(t *testing.T) {
	g, _ := newTestGeneration(100)
	first := issue(t, g, 60, 1)
	got := make(chan *Ticket)
	go func() {
		tk, _ := g.Issue(context.Background(), Load{Records: 1, Payload: 60, Bytes: 60}, []Span{{Part: 0, Next: 2}})
		got <- tk
	}()
	waitUntil(t, func() bool { return g.Blocks() == 1 })
	select {
	case <-got:
		t.Fatal("the window let 120 of 100 bytes through")
	default:
	}
	first.Ack(nil)
	second := <-got
	// A batch larger than the window goes alone.
	second.Ack(nil)
	issue(t, g, 1_000, 3).Ack(nil)
}

func waitUntil(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10s")
		}
	}
}

func TestBreakWakesEverybody(t *testing.T) {
	g, _ := newTestGeneration(100)
	a, b := issue(t, g, 50, 1), issue(t, g, 50, 2)
	results := make(chan error, 2)
	go func() { results <- b.Turn(context.Background()) }()
	go func() {
		_, err := g.Issue(context.Background(), Load{Records: 1, Payload: 50, Bytes: 50}, []Span{{Part: 0, Next: 3}})
		results <- err
	}()
	waitUntil(t, func() bool { return g.Blocks() == 1 })
	a.Fail(errors.New("refused"))
	for range 2 {
		if err := <-results; !errors.Is(err, ErrBroken) {
			t.Fatalf("got %v, want ErrBroken", err)
		}
	}
	select {
	case <-g.Trouble():
	default:
		t.Fatal("no trouble is signalled")
	}
	a.Ack(nil)
	b.Ack(nil)
	if err := g.Drained(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := g.Certain(&Disowned{})[0]; got != 0 {
		t.Fatalf("a refused batch moved the position to %d", got)
	}
	if err := g.Broken(); err == nil || err.Error() != "refused" {
		t.Fatalf("the reason is %v", err)
	}
}

// A refusal by something else disowns what landed, also in a generation that is
// broken already; a cancelled one breaks it, so that nobody waits for its turn.
func TestForeignRefusalDisowns(t *testing.T) {
	for name, before := range map[string]func(*Generation, *Ticket){
		"nothing before": func(*Generation, *Ticket) {},
		"broken":         func(g *Generation, _ *Ticket) { g.Break(errors.New("something else")) },
		"failed too":     func(_ *Generation, tk *Ticket) { tk.Fail(errors.New("refused in part")) },
	} {
		g, _ := newTestGeneration(100)
		tk := issue(t, g, 1, 1)
		before(g, tk)
		tk.Ack(errors.New("rejected"))
		d := g.Disowned()
		if d == nil || d.FromStart || !strings.Contains(d.Err.Error(), "something other than the kafka_failover output") {
			t.Fatalf("%s: disowned: %+v", name, d)
		}
		if st, ok := g.Statements(true); st != nil || ok {
			t.Fatalf("%s: a broken generation states positions", name)
		}
	}
	// A batch merged into another one's, acknowledged unclaimed in a broken
	// generation, is not done.
	g, _ := newTestGeneration(100)
	tk := issue(t, g, 1, 7)
	g.Disown(errors.New("split"), false)
	tk.Ack(nil)
	if got := g.Certain(g.Disowned())[0]; got != 0 {
		t.Fatalf("certain up to %d, want 0", got)
	}
	g, _ = newTestGeneration(100)
	issue(t, g, 1, 1).Ack(fmt.Errorf("stopping: %w", context.Canceled))
	if g.Disowned() != nil || g.Broken() == nil {
		t.Fatalf("a cancelled batch: disowned %v, broken %v", g.Disowned(), g.Broken())
	}
}

// A batch acknowledged while it is being written takes its generation's
// positions back to where they began.
func TestEarlyAckDisowns(t *testing.T) {
	g, _ := newTestGeneration(100)
	issue(t, g, 1, 5).Ack(nil)
	tk := issue(t, g, 1, 9)
	if err := tk.Claim(g.target, "out"); err != nil {
		t.Fatal(err)
	}
	tk.Ack(nil)
	d := g.Disowned()
	if d == nil || !d.FromStart {
		t.Fatalf("disowned: %+v", d)
	}
	if got := g.Certain(d); got[0] != 0 {
		t.Fatalf("certain up to %d, want 0", got[0])
	}
	if got := g.Certain(&Disowned{}); got[0] != 5 {
		t.Fatalf("acknowledged up to %d, want 5", got[0])
	}
}

func TestClaims(t *testing.T) {
	g, _ := newTestGeneration(100)
	tk := issue(t, g, 1, 1)
	if err := tk.Claim(&struct{ target }{}, "other"); err == nil || !strings.Contains(err.Error(), "two kafka_failover outputs") {
		t.Fatalf("a foreign output: %v", err)
	}
	if err := tk.Claim(g.target, "out"); err != nil {
		t.Fatal(err)
	}
	if err := tk.Claim(g.target, "out"); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Fatalf("a second claim: %v", err)
	}
	late := issue(t, g, 1, 2)
	late.Ack(nil)
	if err := late.Claim(g.target, "out"); !errors.Is(err, ErrEarlyAck) {
		t.Fatalf("a claim after the ack: %v", err)
	}
}

func TestDownAndUp(t *testing.T) {
	g, _ := newTestGeneration(100)
	down := errors.New("no answer")
	g.SetDown(down)
	if _, err := g.Issue(context.Background(), Load{Records: 1, Payload: 1, Bytes: 1}, nil); !errors.Is(err, down) {
		t.Fatalf("got %v", err)
	}
	up := make(chan error)
	go func() { up <- g.AwaitUp(context.Background()) }()
	g.SetDown(nil)
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	select {
	case <-g.Trouble():
		t.Fatal("trouble stays after the target is back")
	default:
	}
	issue(t, g, 1, 1)
}

func TestHub(t *testing.T) {
	res := service.MockResources()
	h := Join(res, "")
	if Join(res, "") != h || Join(res, "x") == h {
		t.Fatal("hubs are not told apart by name")
	}
	in := h.AnnounceInput(false)
	if _, err := h.Target(context.Background(), res, ""); !errors.Is(err, ErrNoOutput) {
		t.Fatalf("got %v", err)
	}
	old := h.AnnounceOutput(&target{}, false)
	mine := &target{}
	newer := h.AnnounceOutput(mine, false)
	old.Leave() // the one that closes late takes nothing away
	got, err := h.Target(context.Background(), res, "")
	if err != nil || got != Target(mine) {
		t.Fatalf("%v, %v", got, err)
	}
	if !newer.HasInput() {
		t.Fatal("the output does not see its input")
	}
	in.Fail(errors.New("first"))
	in.Fail(errors.New("second"))
	if err := h.Fatal(); err == nil || err.Error() != "first" {
		t.Fatalf("fatal: %v", err)
	}
	if err := Err(); err == nil || !strings.Contains(err.Error(), "first") {
		t.Fatalf("Err() = %v", err)
	}
	again := h.AnnounceInput(false)
	if !in.Superseded() || again.Superseded() || h.Fatal() != nil {
		t.Fatal("a new input does not begin anew")
	}
	in.Fail(errors.New("from the old one"))
	if err := h.Fatal(); err != nil {
		t.Fatalf("an input that was replaced stops the new one: %v", err)
	}
	in.Leave()
	if again.Superseded() {
		t.Fatal("the old one's leaving took the new one away")
	}
}
