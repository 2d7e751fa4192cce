package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

func newAlone(parts int, starts []int64, a *Alone) (*Generation, *Hub) {
	h := &Hub{name: "test"}
	p := Plan{Standing: &Standing{RelayID: "r"}, WindowBytes: 1 << 30, Alone: a}
	for i := range parts {
		p.Standing.Parts = append(p.Standing.Parts, PartStanding{Part: Part{Source: position.TP{Topic: "s", Partition: int32(i)}}})
		p.Starts = append(p.Starts, position.PartStart{Next: starts[i]})
	}
	return NewGeneration(h.AnnounceInput(false), &target{}, p), h
}

// A random output acknowledges and refuses batches in any order, and the relay
// is killed now and then: a position never passes what was not delivered, and
// everything is in the end.
func TestAloneAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const parts, records = 3, 200
	for range 50 {
		delivered := [parts][records]bool{}
		starts := make([]int64, parts)
		a := &Alone{MaxInFlight: 1 + r.IntN(8)}
		left := func() (n int64) {
			for _, s := range starts {
				n += records - s
			}
			return n
		}
		for left() > 0 {
			g, _ := newAlone(parts, starts, a)
			at := append([]int64(nil), starts...)
			type batch struct {
				t     *Ticket
				spans []Span
				from  []int64
			}
			var out []batch
			for g.Broken() == nil {
				room := g.outstanding == 0 || g.outstanding < g.mostBatches()
				if g.outstanding > a.MaxInFlight {
					t.Fatalf("%d batches are under way, %d may", g.outstanding, a.MaxInFlight)
				}
				var b batch
				if room && r.IntN(2) == 0 {
					for p := range at {
						if n := min(int64(r.IntN(9)), records-at[p]); n > 0 {
							b.from = append(b.from, at[p])
							at[p] += n
							b.spans = append(b.spans, Span{Part: p, Next: at[p]})
						}
					}
				}
				if len(b.spans) > 0 {
					var err error
					if b.t, err = g.Issue(context.Background(), Load{Records: 1}, b.spans); err != nil {
						t.Fatal(err)
					}
					out = append(out, b)
					continue
				}
				if len(out) == 0 {
					if g.Positions()[position.TP{Topic: "s"}] == records && at[1] == records && at[2] == records {
						break
					}
					continue
				}
				i := r.IntN(len(out))
				b = out[i]
				out = append(out[:i], out[i+1:]...)
				var err error
				if r.IntN(8) == 0 {
					err = errors.New("no")
				}
				for k, s := range b.spans {
					for o := b.from[k]; o < s.Next; o++ {
						delivered[s.Part][o] = delivered[s.Part][o] || err == nil || r.IntN(2) == 0
					}
				}
				if missing := b.t.Ack(err); missing != 0 {
					t.Fatalf("%d are said to be filtered", missing)
				}
				if r.IntN(30) == 0 { // kill -9: the next generation knows the marks alone
					break
				}
			}
			killed := g.Broken() == nil
			for _, b := range out { // what was under way ends, whatever came before
				if !killed && r.IntN(2) == 0 {
					for k, s := range b.spans {
						for o := b.from[k]; o < s.Next; o++ {
							delivered[s.Part][o] = true
						}
					}
					b.t.Ack(nil)
				} else {
					b.t.Ack(errors.New("no"))
				}
			}
			statements, ok := g.Statements(true)
			if !ok {
				t.Fatal("a broken generation is to say where it stands")
			}
			for i, s := range statements {
				for o := range s.Next {
					if !delivered[i][o] {
						t.Fatalf("position %d of %d passes offset %d, which was not delivered", s.Next, i, o)
					}
				}
				if s.Next < starts[i] {
					t.Fatalf("position %d of %d goes back from %d", s.Next, i, starts[i])
				}
				starts[i] = s.Next
			}
			a = &Alone{MaxInFlight: a.MaxInFlight}
			if !killed {
				a.Careful = g.Refused()
			}
		}
	}
}

// After a refusal one batch at a time is under way, until what was refused has
// been passed.
func TestAloneCareful(t *testing.T) {
	g, _ := newAlone(1, []int64{0}, &Alone{MaxInFlight: 3})
	first, second := issue(t, g, 1, 10), issue(t, g, 1, 20)
	second.Ack(nil)
	first.Ack(errors.New("full"))
	if err := g.Broken(); err == nil || !strings.Contains(err.Error(), "source partition s/0 before offset 10") {
		t.Fatal(err)
	}
	if next := g.Positions()[position.TP{Topic: "s"}]; next != 0 {
		t.Fatalf("the position is %d behind a refused batch", next)
	}
	g, _ = newAlone(1, []int64{0}, &Alone{MaxInFlight: 3, Careful: g.Refused()})
	part := issue(t, g, 1, 5)
	if n := g.mostBatches(); n != 1 {
		t.Fatalf("%d batches may be under way", n)
	}
	part.Ack(nil)
	if n := g.mostBatches(); n != 1 || g.Passed() {
		t.Fatalf("%d batches may be under way, and the refused one has not been passed", n)
	}
	issue(t, g, 1, 12).Ack(nil)
	if n := g.mostBatches(); n != 3 || !g.Passed() || len(g.Refused()) != 0 {
		t.Fatalf("%d batches may be under way behind the refused one, %v", n, g.Refused())
	}
}

// A record that must not be delivered stops the relay before its batch.
func TestAloneStop(t *testing.T) {
	g, h := newAlone(1, []int64{0}, &Alone{MaxInFlight: 1})
	tk := issue(t, g, 1, 10)
	tk.Stop(errors.New("bad"))
	tk.Ack(nil)
	if next := g.Positions()[position.TP{Topic: "s"}]; next != 0 || h.Fatal() == nil {
		t.Fatalf("position %d, %v", next, h.Fatal())
	}
}

// With an output of ours the target keeps the positions: a batch that reaches one
// all the same ends the relay.
func TestAloneReachesOurOutput(t *testing.T) {
	g, _ := newAlone(1, []int64{0}, &Alone{MaxInFlight: 1})
	err := issue(t, g, 1, 10).Claim(&target{}, `output "x"`)
	if err == nil || !strings.Contains(err.Error(), `reached output "x"`) {
		t.Fatal(err)
	}
}
