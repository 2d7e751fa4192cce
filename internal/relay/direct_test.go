package relay

import (
	"context"
	"errors"
	"testing"

	"github.com/kafka-failover/kafka-failover/internal/record"
)

// What neither arrived nor was counted by a filter, something else took out.
func TestMissing(t *testing.T) {
	g, _ := newTestGeneration(1 << 20)
	tk, err := g.Issue(context.Background(), Load{Records: 10, Payload: 10, Bytes: 10}, []Span{{Part: 0, Next: 10}})
	if err != nil {
		t.Fatal(err)
	}
	tk.Filtered(3)
	for arrived, want := range map[int]int64{7: 0, 5: 2, 0: 7, 10: 0} {
		if got := tk.Missing(arrived); got != want {
			t.Errorf("%d arrived: %d missing", arrived, got)
		}
	}
	if got := tk.Ack(nil); got != 7 {
		t.Errorf("a batch of which nothing arrived: %d missing", got)
	}
	if got := tk.Ack(nil); got != 0 {
		t.Errorf("acknowledged again: %d", got)
	}
}

// In a direct generation only filters may take a whole batch out.
func TestDirectBatchLost(t *testing.T) {
	for _, left := range []int{0, 1} {
		g, _ := newTestGeneration(1 << 20)
		g.Direct = true
		tk, err := g.Issue(context.Background(), Load{Records: 1, Payload: 10, Bytes: 10}, []Span{{Part: 0, Next: 1}})
		if err != nil {
			t.Fatal(err)
		}
		tk.Carry(make([]record.Source, left))
		tk.Ack(nil)
		if lost := errors.Is(g.Broken(), ErrNotDirect); lost != (left > 0) {
			t.Errorf("%d records left: %v", left, g.Broken())
		}
	}
}

// A ticket that waits for its transaction alone keeps in the window what its
// records weigh, and no more.
func TestJoinedTicketLightens(t *testing.T) {
	g, _ := newTestGeneration(1000)
	g.target = &target{}
	tk, err := g.Issue(context.Background(), Load{Records: 1, Payload: 100, Bytes: 900}, []Span{{Part: 0, Next: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tk.Claim(g.target, "x"); err != nil {
		t.Fatal(err)
	}
	acked := false
	tk.Join(func() { acked = true })
	if err := tk.Hand(nil); err != nil {
		t.Fatal(err)
	}
	tk.Landed(nil, nil)
	if g.held != 900 {
		t.Fatalf("before: %d", g.held)
	}
	tk.Ack(nil)
	if !acked || g.held != 100 || g.outstanding != 1 {
		t.Fatalf("acked %v, held %d, outstanding %d", acked, g.held, g.outstanding)
	}
	if _, err := g.Issue(context.Background(), Load{Payload: 100, Bytes: 900}, nil); err != nil {
		t.Fatal(err)
	}
	tk.Leave()
	if g.held != 900 || g.outstanding != 1 {
		t.Fatalf("after: held %d, outstanding %d", g.held, g.outstanding)
	}
}

// A ticket's life allocates little, and nothing per record.
func TestTicketAllocates(t *testing.T) {
	g, _ := newTestGeneration(1 << 30)
	g.target = &target{}
	next := int64(0)
	got := testing.AllocsPerRun(200, func() {
		next += 500
		tk, _ := g.Issue(context.Background(), Load{Records: 500, Payload: 100, Bytes: 900}, []Span{{Part: 0, Next: next}})
		_ = tk.Claim(g.target, "x")
		_ = tk.Turn(context.Background())
		touches := []Touch{{}}
		_ = tk.Hand(touches)
		tk.Pass()
		tk.Landed(touches, []int64{next})
		tk.Ack(nil)
	})
	if got > 12 {
		t.Errorf("%.0f allocations a ticket", got)
	}
}

func BenchmarkTicket(b *testing.B) {
	g, _ := newTestGeneration(1 << 30)
	g.target = &target{}
	b.ReportAllocs()
	next := int64(0)
	for b.Loop() {
		next++
		tk, _ := g.Issue(context.Background(), Load{Records: 1, Payload: 100, Bytes: 900}, []Span{{Part: 0, Next: next}})
		_ = tk.Claim(g.target, "x")
		touches := []Touch{{}}
		_ = tk.Hand(touches)
		tk.Pass()
		tk.Landed(touches, []int64{next})
		tk.Ack(nil)
	}
}
