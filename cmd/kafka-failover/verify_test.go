package main

import (
	"strings"
	"testing"
	"time"
)

// --since takes a time or a span, and says so of anything else.
func TestParseSince(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{"": {}, "24h": now.Add(-24 * time.Hour), "2026-01-30T00:00:00Z": time.Date(2026, 1, 30, 0, 0, 0, 0, time.UTC)} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"yesterday", "-2h", "2026-01-30"} {
		if _, err := parseSince(text, now); err == nil || !strings.Contains(err.Error(), "neither a time such as") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
