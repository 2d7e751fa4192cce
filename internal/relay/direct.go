package relay

import (
	"errors"
	"sync/atomic"

	"github.com/kafka-failover/kafka-failover/internal/record"
)

var direct atomic.Bool

// SetDirect says that nothing stands between the kafka_failover inputs and
// outputs of this process but kafka_failover_filter processors. A batch is then
// one message, a carrier, and its ticket carries the source records: messages
// that nobody reads cost more than the rest of a record's way. Whoever builds the
// pipelines is to know; only inputs that connect afterwards heed it.
func SetDirect(is bool) { direct.Store(is) }

// IsDirect tells what SetDirect said last.
func IsDirect() bool { return direct.Load() }

// ErrNotDirect contradicts SetDirect.
var ErrNotDirect = errors.New("the program said that nothing but filters stands between input and output (SetDirect), and something does")

// Carry notes the source records of the batch, in their order; a filter notes
// what it has left of them.
func (t *Ticket) Carry(sources []record.Source) { t.sources = sources }

// Carried are the source records of the batch; nil unless the generation is
// direct. One goroutine at a time has a batch.
func (t *Ticket) Carried() []record.Source { return t.sources }
