// Package demo shows the relay at work to somebody who has nothing but Go: two
// sources and a target in this process, a real pipeline between them, a source
// killed under load, and the proof that nothing was lost.
package demo

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

//go:embed pipeline.yaml
var pipeline string

const (
	perSecond = 2000
	// killAfter and feedFor are counted from the first record written.
	killAfter = 4 * time.Second
	feedFor   = 8 * time.Second
	// patience bounds every wait, so that the demo ends by itself.
	patience = 5 * time.Second
)

// Options of Run.
type Options struct {
	Out io.Writer
	// Keep leaves the brokers that are alive up until the context ends.
	Keep bool
}

// Run plays the demo. The error says what was not as promised.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{out: o.Out}
	defer d.close()
	if err := d.open(); err != nil {
		return err
	}
	if err := d.relay(ctx); err != nil {
		return err
	}
	if err := d.prove(ctx); err != nil || !o.Keep {
		return err
	}
	return d.keep(ctx)
}

type demo struct {
	out           io.Writer
	dc1, dc2, tgt *broker
	began         time.Time
	killed        atomic.Int64 // when, in nanoseconds behind began; 0 before
	switched      atomic.Int64 // when reading went on after that
	reading       atomic.Value // the source that is read, a string
	left          *broker      // the one that was not killed
}

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }

// tell is one line of what happens, with the time since the start.
func (d *demo) tell(format string, args ...any) {
	d.say("%5.1fs  %s", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) open() (err error) {
	for _, b := range []struct {
		name string
		into **broker
	}{{"dc1", &d.dc1}, {"dc2", &d.dc2}, {"target", &d.tgt}} {
		if *b.into, err = startBroker(b.name); err != nil {
			return err
		}
	}
	d.began = time.Now()
	d.reading.Store("")
	d.say("Two source clusters with the same records, %s (dc1) and %s (dc2), and a target, %s,", d.dc1.address, d.dc2.address, d.tgt.address)
	d.say("all in this process. This pipeline relays what is paid in INR:\n")
	for line := range strings.Lines(d.yaml()) {
		_, _ = fmt.Fprintf(d.out, "    %s", line)
	}
	d.say("")
	return nil
}

func (d *demo) close() {
	for _, b := range []*broker{d.dc1, d.dc2, d.tgt} {
		if b != nil {
			b.stop()
		}
	}
}

func (d *demo) yaml() string {
	return strings.NewReplacer("${DEMO_DC1}", d.dc1.address, "${DEMO_DC2}", d.dc2.address, "${DEMO_TARGET}", d.tgt.address).Replace(pipeline)
}

// relay runs the pipeline under load, kills the source that is read, and waits
// until everything has arrived.
func (d *demo) relay(ctx context.Context) error {
	b := service.NewStreamBuilder()
	if err := b.SetYAML(d.yaml()); err != nil {
		return err
	}
	b.SetLogger(slog.New(narrator{d}))
	stream, err := b.Build()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running := make(chan error, 1)
	go func() { running <- stream.Run(ctx) }()
	feeding, stopFeeding := context.WithTimeout(ctx, feedFor)
	defer stopFeeding()
	fed := make(chan error, 1)
	go func() { fed <- feed(feeding, perSecond, d.dc1, d.dc2) }()
	if err := d.watch(ctx, running, fed); err != nil {
		return err
	}
	if err := stream.StopWithin(patience); err != nil {
		return fmt.Errorf("stopping the pipeline: %w", err)
	}
	return nil
}

// watch tells what goes on, once a second, until the target holds everything.
func (d *demo) watch(ctx context.Context, running, fed <-chan error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	kill := time.After(killAfter)
	var late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-running:
			return fmt.Errorf("the pipeline ended by itself: %w", err)
		case <-kill:
			victim := d.dc1
			if d.left = d.dc2; d.reading.Load() == d.dc2.name {
				victim, d.left = d.dc2, d.dc1
			}
			d.tell("** %s is killed: no more answers, all connections closed **", victim.name)
			d.killed.Store(int64(time.Since(d.began)))
			victim.kill()
			continue
		case err := <-fed:
			if err != nil {
				return err
			}
			fed = nil
			d.tell("all orders are written; the pipeline is given time to end")
			late = time.After(patience)
			tick.Reset(100 * time.Millisecond)
			continue
		case <-late:
			return errors.New("the target does not hold everything in time")
		case <-tick.C:
		}
		written, arrived := d.mirror().held(ctx), d.tgt.held(ctx)
		if fed == nil {
			if arrived >= inINR(written) {
				d.tell("the target holds %s records", humanize.Comma(arrived))
				return nil
			}
			continue
		}
		d.tell("%8s written to the sources, %8s in the target   reading %v", humanize.Comma(written), humanize.Comma(arrived), d.reading.Load())
	}
}

// mirror is a source that is alive.
func (d *demo) mirror() *broker {
	if d.left != nil {
		return d.left
	}
	return d.dc2
}

// inINR is how many of the first n orders the filter keeps.
func inINR(n int64) int64 {
	kept := int64(0)
	for i := range n {
		if currencies[i%int64(len(currencies))] == "INR" {
			kept++
		}
	}
	return kept
}

// prove compares the target with the source that is left, record by record.
func (d *demo) prove(ctx context.Context) error {
	filtered := 0
	rep, err := oracle.Compare(ctx, d.left.asked, d.tgt.asked, oracle.Options{
		Topics: map[string]string{topic: topic},
		Expect: func(r *kgo.Record) *kgo.Record {
			var o struct{ Currency string }
			if err := json.Unmarshal(r.Value, &o); err != nil || o.Currency != "INR" {
				filtered++
				return nil
			}
			return r
		},
	})
	if err != nil {
		return err
	}
	d.say("\nEvery record of the target compared with %s (key, value, headers, timestamp, order):\n", d.left.name)
	d.say("    to be relayed  %8s  (and %s filtered out)", humanize.Comma(int64(rep.Source)), humanize.Comma(int64(filtered)))
	d.say("    in the target  %8s", humanize.Comma(int64(rep.Target)))
	d.say("    lost %d, duplicated %d, reordered %d, altered %d, foreign %d", rep.Lost, rep.Duplicated, rep.Reordered, rep.Altered+rep.Misplaced, rep.Foreign)
	after := time.Duration(d.switched.Load() - d.killed.Load())
	switch {
	case !rep.Exact():
		return fmt.Errorf("source and target differ: %s", rep)
	case rep.Source == 0:
		return errors.New("nothing was relayed")
	case after <= 0:
		return fmt.Errorf("the relay never switched to %s", d.left.name)
	}
	d.say("    reading went on from %s %s after the kill", d.left.name, after.Round(time.Millisecond))
	d.say("\nSource and target are equal.")
	return nil
}

// keep tells how to look at the brokers, and leaves them up until ctx ends.
func (d *demo) keep(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "kafka-failover-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "demo.yaml")
	if err := os.WriteFile(file, []byte(d.yaml()), 0o600); err != nil {
		return err
	}
	d.say(`
The brokers stay up until Ctrl-C, but for the one that was killed. The pipeline is in
    %[1]s
Look at them with this program:
    kafka-failover check %[1]s
    kafka-failover status %[1]s
    kafka-failover verify --source %[5]s --pipeline %[1]s
or with ordinary Kafka tools:
    kcat -b %[2]s -t %[3]s -C -o -3 -e -f '%%t/%%p %%o %%k %%h %%s\n'
    kafka-console-consumer.sh --bootstrap-server %[2]s --topic %[3]s --from-beginning --property print.headers=true
    kafka-get-offsets.sh --bootstrap-server %[4]s --topic %[3]s
and run the relay itself, which goes on where the target stands:
    kafka-failover run %[1]s`, file, d.tgt.address, topic, d.left.address, d.left.name)
	<-ctx.Done()
	return nil
}

// narrator tells the relay's own log lines that matter to the story.
type narrator struct{ d *demo }

func (n narrator) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (n narrator) WithAttrs([]slog.Attr) slog.Handler           { return n }
func (n narrator) WithGroup(string) slog.Handler                { return n }

func (n narrator) Handle(_ context.Context, r slog.Record) error {
	switched := strings.HasPrefix(r.Message, "Switched from source")
	switch {
	case switched || strings.HasPrefix(r.Message, "Reading from source"):
		n.d.reading.Store(sourceOf(r))
		if switched && n.d.killed.Load() > 0 {
			n.d.switched.CompareAndSwap(0, int64(time.Since(n.d.began)))
		}
	case r.Level < slog.LevelWarn:
		return nil
	}
	n.d.tell("relay: %s", r.Message)
	return nil
}

// sourceOf is the source that a line about reading names: the last word but for
// what stands in parentheses.
func sourceOf(r slog.Record) string {
	text, _, _ := strings.Cut(r.Message, " (")
	return text[strings.LastIndexByte(text, ' ')+1:]
}
