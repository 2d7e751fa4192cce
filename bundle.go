// Package kafkafailover brings the kafka_failover plugins into any Benthos or
// Redpanda Connect build by a blank import:
//
//	import _ "github.com/kafka-failover/kafka-failover"
package kafkafailover

import (
	_ "github.com/kafka-failover/kafka-failover/input" // input kafka_failover
	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/relay"
	_ "github.com/kafka-failover/kafka-failover/output"    // output kafka_failover
	_ "github.com/kafka-failover/kafka-failover/processor" // processor kafka_failover_filter
)

// Sentinels that errors of a relay wrap.
var (
	// ErrNoHealthy: no source can be read; with retry.max_retries spent, Err
	// wraps it.
	ErrNoHealthy = pool.ErrNoHealthy
	// ErrLaggingBehind: the source that was read is behind another one by more
	// than health.lag_threshold, and was left for it.
	ErrLaggingBehind = pool.ErrLaggingBehind
)

// SetDirect says that nothing stands between the kafka_failover inputs and
// outputs of this process but kafka_failover_filter processors, and that no
// output has fields that are computed from messages. Records then take a shorter
// way, at nearly half the cost. A pipeline that changes values or metadata, or takes
// records out, after all, stops with an error. One that only reads metadata is not
// noticed, and finds none: do not say so where there is one.
func SetDirect(is bool) { relay.SetDirect(is) }

// Err joins the fatal stops of all relays of this process; it is nil while none
// has stopped. With on_fatal: stop a relay stays up, unready, and this is where
// a program that embeds it learns why.
func Err() error { return relay.Err() }

// Exiting is closed once MustExit is true.
func Exiting() <-chan struct{} { return relay.Exiting() }

// MustExit tells whether a fatal stop asks for the process to end with exit
// code 1: with on_fatal: exit, and always with stop_at_end.
func MustExit() bool { return relay.MustExit() }
