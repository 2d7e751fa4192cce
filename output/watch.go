package output

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

const (
	watchInterval = time.Second
	watchTimeout  = 2 * time.Second
	// downAfter failed looks in a row make the relay unready.
	downAfter = 2
	// goneAfter looks in a row that miss a topic mean that it was deleted; a
	// broker just started may not know it yet.
	goneAfter = 5
	// stalledAfter without one acknowledgement makes the relay unready, though
	// the target answers questions.
	stalledAfter = 10 * time.Second
)

// watch looks at the target once a second while a session lasts: whether it
// answers, whether its topics are still those that were found at start, and
// whether a newer instance has taken over. Nothing it finds loses records; an
// unreachable target is waited for.
func (s *session) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var w watcher
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.look(ctx, &w)
		var stop *position.Stop
		if errors.As(err, &stop) {
			s.gen.Fatal(stop)
			close(s.aborted)
			if s.tx != nil {
				<-s.tx.over // what is open is given up
			}
			s.hangUp() // what is buffered is not to land any more
			return
		}
		if ctx.Err() != nil {
			return
		}
		s.gen.SetDown(w.judge(err))
	}
}

// watcher counts what was seen in a row.
type watcher struct{ failed, missing int }

// judge turns one look's outcome into the reason to be unready, if any.
func (w *watcher) judge(err error) error {
	if err == nil {
		w.failed = 0
		return nil
	}
	if w.failed++; w.failed < downAfter {
		return nil
	}
	return fmt.Errorf("the target does not take records, waiting for it: %w", err)
}

func (s *session) look(ctx context.Context, w *watcher) error {
	c, err := s.out.admin()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	if err := s.lookAtTopics(ctx, c, w); err != nil {
		return err
	}
	if s.progress != nil {
		entries, err := s.progress.Tail(ctx)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if s.rivals(e) {
				return overtaken(s.out, e)
			}
		}
	}
	if d := s.gen.Stalled(time.Now()); d > stalledAfter {
		return fmt.Errorf("no record was acknowledged for %s", d.Round(time.Second))
	}
	return nil
}

func (s *session) lookAtTopics(ctx context.Context, c *kafka.Cluster, w *watcher) error {
	known := s.contentTopics()
	maps.Copy(known, s.topics)
	d, err := c.Describe(ctx, slices.Collect(maps.Keys(known))...)
	if err != nil {
		return err
	}
	missing := ""
	for name, was := range known {
		now := d.Topics[name]
		switch {
		case now.Missing():
			missing = name
		case was.ID != "" && now.ID != "" && was.ID != now.ID:
			return s.gone(name, "deleted and recreated")
		case len(now.Leaderless) > 0:
			return fmt.Errorf("target partition %s/%d has no leader", name, now.Leaderless[0])
		}
	}
	if missing == "" {
		w.missing = 0
		return nil
	}
	if w.missing++; w.missing >= goneAfter {
		return s.gone(missing, "deleted")
	}
	return fmt.Errorf("target topic %q is not known to the cluster", missing)
}

func (s *session) gone(topic, how string) error {
	if s.progress != nil && topic == s.progress.Name {
		return &position.Stop{
			Reason: fmt.Sprintf("progress topic %q was %s while the relay ran: the marks are gone", topic, how),
			Cure:   "restore the topic, or restart with resume: start (and a start_offset) to go on without the marks",
		}
	}
	return &position.Stop{
		Reason: fmt.Sprintf("target topic %q was %s while the relay ran: what was relayed before is gone", topic, how),
		Cure:   "create it again if need be and restart the relay, which then says how to relay it from the beginning",
	}
}
