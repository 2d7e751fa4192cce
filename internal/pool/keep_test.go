package pool

import (
	"errors"
	"testing"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// When the relay's topics change, a source that lacked one of them is judged by
// its next probe alone, one that failed otherwise is not, and what is known of
// other topics counts no more.
func TestKeep(t *testing.T) {
	ends := Ends{{Topic: "a"}: 10, {Topic: "b"}: 20}
	p := New(Settings{Interval: time.Second, UnhealthyAfter: 2, HealthyAfter: 3}, []string{"lacks", "dead", "short"}, []int{0, 1, 2})
	at := time.Duration(0)
	for i := range 3 {
		p.Good(i, at, ends)
	}
	for range 3 {
		at += time.Second
		p.Bad(0, at, errors.New("no topic b"), true)
		p.Bad(1, at, errors.New("refused"), false)
	}
	p.Short(2, Ends{{Topic: "a"}: 10, {Topic: "b"}: 30}, errors.New("short"))
	p.Keep([]string{"a"})
	for i := range 3 {
		if _, ok := p.sources[i].ends[position.TP{Topic: "b"}]; ok {
			t.Errorf("source %d still has ends of b", i)
		}
	}
	if ends[position.TP{Topic: "b"}] != 20 {
		t.Error("ends that were given out have changed")
	}
	for i, want := range []State{Healthy, Unhealthy, Healthy} {
		p.Good(i, at+time.Second, Ends{{Topic: "a"}: 10})
		if got := p.sources[i].state; got != want {
			t.Errorf("source %d is %s, want %s", i, got, want)
		}
	}
	if p.Outlook() == NoTopic {
		t.Error("a topic is still missed")
	}
}
