package kafkafailover_test

import (
	"testing"
	"time"
)

const stopAtEnd = "stop_at_end: true"

// A million records, as they are, and through processors on several threads.
func TestRelayMillion(t *testing.T) {
	t.Parallel() // topics of its own
	n := count(300_000, 1_000_000)
	for name, p := range map[string]pipeline{
		"bare":    {},
		"mapping": {threads: 4, processors: "- mapping: |\n    root = content()\n    meta seen = \"yes\"", output: "max_in_flight: 16"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("million", 4)
			w.fill(topic, n, 4, 200)
			p.topics, p.input = topic, stopAtEnd
			if code := w.run(p).wait(5 * time.Minute); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			w.mustBeExact(topic)
		})
	}
}
