package input

import (
	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Setup is the part of the configuration that commands beside the relay need.
type Setup struct {
	Sources []kafka.Conn
	Resume  position.Resume
	// Committed: records of open and aborted transactions are not read.
	Committed bool
	// Standard: messages carry standard metadata.
	Standard bool
	// Later: start_offset may begin behind the start of the source's log.
	Later bool
}

// Setup returns it.
func (in *Input) Setup() Setup {
	return Setup{Sources: in.conf.sources, Resume: in.conf.resume, Committed: in.conf.committed, Standard: in.conf.standard, Later: in.conf.start != startOffset{}}
}
