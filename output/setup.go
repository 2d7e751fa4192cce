package output

import (
	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

// Setup is the part of the configuration that commands beside the relay need.
type Setup struct {
	Conn         kafka.Conn
	OriginHeader string
	// Rules say what of a message reaches the target record.
	Rules record.Rules
	// DropsFailed: messages that a processor failed on are left out of the target
	// topic.
	DropsFailed bool
	// DeadLetters: they are kept elsewhere, those too that a filter stops at.
	DeadLetters bool
	// ByContent: the fields topic, key or partition send records elsewhere than
	// the routes do.
	ByContent bool
}

// Setup returns it.
func (o *Output) Setup() Setup {
	return Setup{Conn: o.conf.conn, OriginHeader: o.conf.originHeader, Rules: o.conf.rules, DropsFailed: o.conf.onError != onErrorStop, DeadLetters: o.conf.onError == onErrorDeadLetter, ByContent: o.hasTarget()}
}
