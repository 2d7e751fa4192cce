package main

import (
	"os"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// showProgress draws how far bounded runs (stop_at_end) have come, on a
// terminal, until the process ends.
func showProgress(args []string) {
	if !isTerminal(os.Stderr) || !slices.Contains(args, "run") {
		return
	}
	var bar *progressbar.ProgressBar
	for range time.Tick(200 * time.Millisecond) {
		var done, total int64
		for _, run := range relay.Bounded() {
			for _, t := range run.Topics() {
				done, total = done+t.Done, total+t.Total
			}
		}
		if total == 0 {
			continue
		}
		if bar == nil || bar.GetMax64() != total {
			bar = newBar(total, "relaying")
		}
		_ = bar.Set64(done)
		if done == total {
			_ = bar.Finish()
			return
		}
	}
}

// newBar is a line with records, rate, percent and the time left.
func newBar(total int64, what string) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"),
		progressbar.OptionSetPredictTime(true), progressbar.OptionSetElapsedTime(true), progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
	)
}
