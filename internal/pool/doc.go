// Package pool chooses which source cluster is read.
//
// A Pool is plain state without I/O, goroutines or clocks: probes and findings
// go in as values, with the time they were made; out come changes of state and
// the Decision which source to read now. A Monitor, beside it, probes the
// sources and owns their Pool.
package pool
