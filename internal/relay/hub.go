package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// Hub is where the input and the output of one relay meet. Benthos builds both
// before it connects either, may build them and throw them away (a connection
// test), and builds new ones while the old ones still close (a reload); so
// constructors only announce themselves, the latest one counts, and whoever
// closes takes back its own announcement and nothing else.
type Hub struct {
	name string

	mu     sync.Mutex
	input  *Seat
	output *Seat
	fatal  error
	exit   bool // the input asks for the process to end with a fatal stop
}

// Seat is one announcement at a Hub.
type Seat struct {
	hub    *Hub
	target Target // nil for an input
	weak   bool
}

type hubKey struct{ stream, relay string }

// Join returns the hub of a component: that of its `relay` name, or of its
// stream where the name is empty.
func Join(res *service.Resources, relay string) *Hub {
	key := hubKey{relay: relay}
	name := fmt.Sprintf("relay %q", relay)
	if relay == "" {
		key.stream, name = res.StreamID(), "this stream"
	}
	h, _ := res.GetOrSetGeneric(key, &Hub{name: name})
	return h.(*Hub)
}

// AnnounceInput makes the caller the hub's input; exit says that a fatal stop
// is to end the process. A new input is a new start: what was fatal to the one
// before is forgotten.
func (h *Hub) AnnounceInput(exit bool) *Seat {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.input, h.fatal, h.exit = &Seat{hub: h}, nil, exit
	forgetFailure(h)
	return h.input
}

// AnnounceOutput makes target the hub's output. One that is meant for messages
// of other inputs is weak: it does not displace an output that is not.
func (h *Hub) AnnounceOutput(target Target, weak bool) *Seat {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Seat{hub: h, target: target, weak: weak}
	if h.output == nil || h.output.weak || !weak {
		h.output = s
	}
	return s
}

// Leave takes the announcement back.
func (s *Seat) Leave() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.hub.input == s {
		s.hub.input = nil
	}
	if s.hub.output == s {
		s.hub.output = nil
	}
}

// Superseded tells an input that a later one has taken its place.
func (s *Seat) Superseded() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.input != s
}

// HasInput tells an output whether a kafka_failover input shares its hub.
func (s *Seat) HasInput() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.input != nil
}

// ErrNoOutput is returned by Target where no kafka_failover output is in sight.
var ErrNoOutput = errors.New("no kafka_failover output belongs to this kafka_failover input")

// Target returns the output's side. relay may be the label of an output
// resource, which Benthos builds only when somebody asks for it.
func (h *Hub) Target(ctx context.Context, res *service.Resources, relay string) (Target, error) {
	if t := h.target(); t != nil {
		return t, nil
	}
	if relay != "" && res.HasOutput(relay) {
		if err := res.AccessOutput(ctx, relay, func(*service.ResourceOutput) {}); err != nil {
			return nil, fmt.Errorf("building output resource %q: %w", relay, err)
		}
		if t := h.target(); t != nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%w (%s): use output kafka_failover in the same stream, or set `relay` of the input to the label of the output resource; several pairs in one stream each need a `relay` name of their own; for an output that is not Kafka set resume: cache and a resume_cache, which keeps the positions", ErrNoOutput, h.name)
}

// HasOutput tells whether a kafka_failover output shares the hub.
func (h *Hub) HasOutput() bool { return h.target() != nil }

func (h *Hub) target() Target {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.output == nil {
		return nil
	}
	return h.output.target
}

// Fail stops the relay for good: the first reason stays. An input that was
// superseded stops nobody.
func (s *Seat) Fail(err error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fatal == nil && (h.input == s || h.output == s) {
		h.fatal = err
		noteFailure(h, err, h.exit)
	}
}

// FailUnused notes that an input never came to its turn, since another one took
// its place before it had begun: its part of the work is not done.
func (s *Seat) FailUnused(err error, exit bool) { noteFailure(s, err, exit) }

// Fatal is the reason the relay stopped for good, or nil.
func (h *Hub) Fatal() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fatal
}

// failures holds the fatal stops of the process, by whose they are.
var failures struct {
	sync.Mutex
	by   map[any]failure
	exit chan struct{} // closed once one asks for the process to end
}

type failure struct {
	err  error
	exit bool
}

func init() {
	failures.by, failures.exit = map[any]failure{}, make(chan struct{})
}

func noteFailure(whose any, err error, exit bool) {
	failures.Lock()
	defer failures.Unlock()
	failures.by[whose] = failure{err, exit}
	if exit {
		select {
		case <-failures.exit:
		default:
			close(failures.exit)
		}
	}
}

func forgetFailure(whose any) {
	failures.Lock()
	defer failures.Unlock()
	delete(failures.by, whose)
}

// Err joins the fatal stops of all relays of this process; nil without any.
func Err() error {
	failures.Lock()
	defer failures.Unlock()
	var errs []error
	for _, f := range failures.by {
		errs = append(errs, f.err)
	}
	return errors.Join(errs...)
}

// MustExit tells whether one of them asks for exit code 1 (on_fatal: exit, or
// stop_at_end).
func MustExit() bool {
	failures.Lock()
	defer failures.Unlock()
	for _, f := range failures.by {
		if f.exit {
			return true
		}
	}
	return false
}

// Exiting is closed once a fatal stop asks for the process to end.
func Exiting() <-chan struct{} { return failures.exit }
