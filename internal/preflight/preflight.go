// Package preflight is what a check finds out before anything runs: findings
// about each cluster, and where every partition would begin.
package preflight

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
)

// Level says how grave a finding is.
type Level string

// The levels. Fail is what keeps a relay from running, or a source from standing
// in for another one.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Subjects of findings that are about no single source.
const (
	OnSources = "sources"
	OnTarget  = "target"
	OnStart   = "start"
)

// Finding is one line of a check.
type Finding struct {
	// Subject is a source by its name, or one of OnSources, OnTarget, OnStart.
	Subject string `json:"subject"`
	Check   string `json:"check"`
	Level   Level  `json:"result"`
	Text    string `json:"detail"`
}

func (f Finding) String() string { return f.Subject + ", " + f.Check + ": " + f.Text }

// Start is where one source partition would begin.
type Start struct {
	Partition string `json:"partition"`
	Target    string `json:"target"`
	// Offset is the next source offset to relay; LogStart and LogEnd bound the
	// source's log.
	Offset   int64 `json:"offset"`
	LogStart int64 `json:"log_start"`
	LogEnd   int64 `json:"log_end"`
	// Why names the ground: a mark, an empty target, ...
	Why string `json:"why"`
}

// Behind is how many offsets are left to relay.
func (s Start) Behind() int64 { return max(0, s.LogEnd-s.Offset) }

// Report is the outcome of a check.
type Report struct {
	Findings []Finding `json:"findings"`
	// Source is the one that would be read first; Starts are its partitions.
	// Both are empty if the relay would not start.
	Source string  `json:"source,omitempty"`
	Starts []Start `json:"starts,omitempty"`
}

// Add notes a finding.
func (r *Report) Add(level Level, subject, check, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{subject, check, level, fmt.Sprintf(format, args...)})
}

// AddConnection notes that a cluster answers, and how it is connected to.
func (r *Report) AddConnection(subject string, conn kafka.Conn, clusterID string) {
	r.Add(OK, subject, "connection", "%s, cluster ID %s", conn.Security, clusterID)
	if conn.Security.Exposed() {
		r.Add(Warn, subject, "connection", "%s without TLS: the password or token travels in the clear; set tls", conn.Security.SASL)
	}
}

// Err joins the findings that fail; nil without any.
func (r *Report) Err() error {
	var errs []error
	for _, f := range r.Findings {
		if f.Level == Fail {
			errs = append(errs, errors.New(f.Text))
		}
	}
	return errors.Join(errs...)
}

// Failed tells whether any finding fails.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == Fail })
}
