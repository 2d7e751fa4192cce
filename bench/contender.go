package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// contender is one who brings a topic from the source to the target.
type contender struct {
	name  string
	shape shape
	// start gives the process that does it, not started yet.
	start func(r *round) (*exec.Cmd, error)
	// ends: it ends by itself, well, once all is there.
	ends bool
	// tied says by what the oracle knows its records.
	tied tie
	// sameName: it writes to a topic of the source's name.
	sameName bool
	// behind is how many times the relay is to be as fast; 0: that is only shown.
	behind float64
	// cleanUp removes what it leaves on the brokers beside its records.
	cleanUp func(r *round) error

	samples []sample
	report  *oracle.Report
}

// tie is how target records are tied to source records.
type tie int

const (
	byOffset tie = iota // no origin header, partitions and offsets kept
	byOrigin            // _origin
	byKey               // neither
)

// round is one run of one contender.
type round struct {
	dir      string // for its files
	src, dst *kafkatest.Cluster
	source   string // address of the source broker
	target   string
	from     string // source topic
	into     string // target topic
	shape    shape
	number   int
}

func (r *round) write(name, content string) (string, error) {
	file := filepath.Join(r.dir, name)
	return file, os.WriteFile(file, []byte(content), 0o600)
}

// bare is the yardstick, for any shape.
func bare(s shape, name string, extra ...string) *contender {
	tied := byOffset
	if len(extra) > 0 { // the markers of transactions have offsets of their own
		tied = byKey
	}
	return &contender{name: name, shape: s, ends: true, tied: tied, start: func(r *round) (*exec.Cmd, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(self, append([]string{"bare", r.source, r.target, r.from, r.into, fmt.Sprint(r.shape.records)}, extra...)...)
		cmd.Stderr = os.Stderr
		return cmd, nil
	}}
}

// way is how the relay runs: what is not set is as the binary's defaults have it,
// but for metadata.
type way struct {
	delivery   string
	metadata   string
	processors string
}

const relayYAML = `
logger: { level: WARN }
input:
  kafka_failover:
    sources: [ { name: dc1, seed_brokers: [ %q ] } ]
    topics: [ "%s:%s" ]
    metadata: %s
    stop_at_end: true
pipeline:
  processors: [ %s ]
output:
  kafka_failover:
    seed_brokers: [ %q ]
    relay_id: %s
    delivery: %s
%s
`

const (
	noHTTP = "http: { enabled: false }"
	// profileHTTP makes the relay tell where its time goes.
	profileHTTP = `http: { enabled: true, address: "127.0.0.1:6060", debug_endpoints: true }`
)

// relay is this project.
func relay(s shape, name string, w way) *contender {
	if w.delivery == "" {
		w.delivery = "at_least_once"
	}
	if w.metadata == "" {
		w.metadata = "none"
	}
	return &contender{name: name, shape: s, ends: true, tied: byOrigin, start: func(r *round) (*exec.Cmd, error) {
		http := noHTTP
		if flags.profile != "" {
			http = profileHTTP
		}
		file, err := r.write(r.into+".yaml", fmt.Sprintf(relayYAML, r.source, r.from, r.into, w.metadata, w.processors, r.target, r.into, w.delivery, http))
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(flags.relay, "run", file)
		cmd.Stderr, cmd.Stdout = os.Stderr, os.Stderr
		return cmd, nil
	}}
}

// id is the contender's name, fit for a topic.
func (c *contender) id(round int) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, c.name), "-") + fmt.Sprintf(".%s.%d", c.shape.name, round)
}
