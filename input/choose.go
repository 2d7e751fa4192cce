package input

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

// startPool begins to probe the sources.
func (in *Input) startPool() error {
	if in.pool != nil {
		return nil
	}
	order := make([]int, len(in.conf.sources))
	for i := range order {
		order[i] = i
	}
	if in.conf.randomFirst {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	m := pool.NewMonitor(pool.Config{
		Settings: in.conf.health, Timeout: in.conf.timeout, Sources: in.conf.sources,
		Topics: in.conf.topicNames(), End: in.conf.end(), Order: order, Log: in.log, Metrics: in.poolMetrics,
	})
	if err := m.Start(); err != nil {
		return err
	}
	in.pool = m
	in.startGauges(m)
	return nil
}

// choice is the source to read, and why.
type choice struct {
	pool.Decision
	// skip: every source has lost records, and on_gap says to go on.
	skip bool
}

// choose returns the source to read now. The error says why there is none, and
// is a stop if waiting will not bring one.
func (in *Input) choose(ctx context.Context) (choice, error) {
	for {
		changed := in.pool.Changed()
		if err := in.pool.OneCluster(); err != nil {
			return choice{}, err
		}
		d, outlook := in.pool.Decide()
		switch {
		case d.To >= 0:
			return choice{Decision: d}, nil
		case outlook == pool.AllTrimmed && in.conf.skipGaps:
			return choice{pool.Decision{To: in.pool.LosingLeast(), Why: pool.Failed}, true}, nil
		case outlook == pool.NoTopic:
			return choice{}, in.gone(ctx)
		case outlook == pool.NoneAgrees, outlook == pool.AllTrimmed:
			return choice{}, in.hopeless()
		case outlook == pool.Wait:
			in.poolMetrics.NoneHealthy()
			return choice{}, in.noSource()
		}
		select { // the first probes have not ended
		case <-changed:
		case <-ctx.Done():
			return choice{}, ctx.Err()
		}
	}
}

// noSource says that no source can be read now, and what is the matter with each.
func (in *Input) noSource() error {
	var texts []string
	for _, s := range in.pool.Status() {
		texts = append(texts, s.String())
	}
	return fmt.Errorf("%w can be read: %s", pool.ErrNoHealthy, strings.Join(texts, "; "))
}

// hopeless is the stop where waiting brings no source: what was found out about
// each of them.
func (in *Input) hopeless() error {
	stop := &position.Stop{}
	var reasons []string
	for i, s := range in.pool.Status() {
		if u := in.unfit[i]; u != nil && s.State == u.state {
			reasons = append(reasons, u.stop.Reason)
			stop.Cure, stop.Forget, stop.Command = u.stop.Cure, u.stop.Forget, u.stop.Command
		} else {
			reasons = append(reasons, s.String())
		}
	}
	stop.Reason = strings.Join(reasons, "; ")
	return stop
}

// onSource runs step on the source to read, and on another one whenever that
// one turns out unfit or dies meanwhile. The error is about something else, or
// says that no source is left.
func (in *Input) onSource(ctx context.Context, step func(context.Context, *source, bool) error) error {
	for {
		c, err := in.choose(ctx)
		if err != nil {
			return err
		}
		if c.Why == pool.Lagging || c.Why == pool.Failback {
			in.pool.Moving()
		}
		err = in.try(ctx, c, step)
		u, stop, asked := (*unfit)(nil), (*position.Stop)(nil), askError{}
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.As(err, &asked) && in.refuses(c.To):
			in.pool.Find(func(p *pool.Pool) *pool.Change { return p.Stalled(c.To, err) })
		case errors.As(err, &u):
			in.unfit[c.To] = u
			in.pool.Find(func(p *pool.Pool) *pool.Change { return u.note(p, c.To) })
		case errors.As(err, &stop), c.skip, in.pool.Recheck(ctx, c.To):
			return err // not for the source to mend
		}
	}
}

// askError is a question that a source did not answer before it was read.
type askError struct{ error }

func (e askError) Unwrap() error { return e.error }

// refuses tells whether source i has left questions unanswered twice in a row:
// then it is no good, whatever it answers to probes.
func (in *Input) refuses(i int) bool {
	if in.refusedBy != i {
		in.refused, in.refusedBy = 0, i
	}
	in.refused++
	return in.refused >= 2
}

// try opens the source that was chosen and runs step on it, as long as it can
// be read.
func (in *Input) try(ctx context.Context, c choice, step func(context.Context, *source, bool) error) error {
	ctx, done := in.pool.Guard(ctx, c.To)
	defer done()
	conf, err := in.selected(ctx, c.To)
	if err != nil {
		return err
	}
	s, err := openSource(ctx, conf, c.To, in.pool.Conn(c.To))
	if err != nil {
		return askError{err}
	}
	if err := step(ctx, s, c.skip); err != nil {
		s.close()
		return err
	}
	in.arrived(c)
	return nil
}

// arrived notes, logs and counts that reading has begun on a source.
func (in *Input) arrived(c choice) {
	before := in.pool.Status()
	in.pool.Reading(c.To)
	in.reader.follow()
	in.refused = 0
	to := before[c.To].Name
	log := in.log.With("source", to)
	if in.cause != nil {
		log = log.With("reason", in.cause.Error(), "duration", time.Since(in.left).Round(time.Millisecond).String())
	}
	switch {
	case in.last < 0:
		log.Infof("Reading from source %s", to)
	case in.last != c.To:
		in.poolMetrics.Switched()
		log.With("from", before[in.last].Name, "to", to).Warnf("Switched from source %s to %s (%s)", before[in.last].Name, to, c.Why)
	case in.cause != nil:
		log.Infof("Reading on from source %s", to)
	}
	in.last, in.cause = c.To, nil
}

// fitness is what an examination allows, and on which conditions.
type fitness struct {
	// gaps are what on_gap: skip leaves out.
	gaps []gap
	// ignored is a difference that on_divergence: ignore passes over.
	ignored error
	// unverified are partitions that on_unverified: continue follows though
	// nothing is left to compare.
	unverified []position.TP
}

// fitness examines a source and applies on_divergence, on_unverified and
// on_gap. With skip, claims move past what the source has lost.
func (in *Input) fitness(ctx context.Context, s *source, claims []claim, skip bool) (f fitness, err error) {
	if skip {
		f.gaps = s.skipGaps(claims)
	}
	unverified, err := s.examine(ctx, claims)
	u := (*unfit)(nil)
	switch {
	case err != nil && !errors.As(err, &u):
		return f, askError{err}
	case u != nil && u.state == pool.Diverged && in.conf.trustDiverged:
		f.ignored = err
		unverified, err = nil, s.reaches(claims)
	}
	if err != nil {
		return f, err
	}
	f.unverified = slices.DeleteFunc(unverified, func(tp position.TP) bool { // nothing can be left there
		return slices.ContainsFunc(f.gaps, func(g gap) bool { return claims[g.claim].tp == tp })
	})
	if len(f.unverified) > 0 && !in.conf.trustUnverified {
		return f, diverged(&position.Stop{Reason: s.unverified(f.unverified) + " (on_unverified: stop)", Cure: "compare source and target, then set on_unverified: continue"})
	}
	return f, nil
}

func (s *source) unverified(tps []position.TP) string {
	return fmt.Sprintf("no record relayed before is left on source %s to compare it with, in %d partitions, %s among them", s.name, len(tps), tps[0])
}

// fit examines a source to be read, logs on which conditions it is, and returns
// what is lost by it.
func (in *Input) fit(ctx context.Context, s *source, claims []claim, skip bool) ([]gap, error) {
	f, err := in.fitness(ctx, s, claims, skip)
	if f.ignored != nil {
		in.log.With("source", s.name).Warnf("on_divergence: ignore: %v", f.ignored)
	}
	if err == nil && len(f.unverified) > 0 {
		in.log.With("source", s.name, "partition", f.unverified[0].String()).Warn(s.unverified(f.unverified) + "; it is followed unverified")
	}
	return f.gaps, err
}

// lose logs and counts what on_gap: skip leaves out.
func (in *Input) lose(s *source, claims []claim, gaps []gap) {
	for _, g := range gaps {
		tp := claims[g.claim].tp
		in.metrics.Lost(tp.Topic, tp.Partition, g.to-g.from)
		in.log.With("source", s.name, "topic", tp.Topic, "partition", tp.Partition, "from", g.from, "to", g.to-1, "records", g.to-g.from).
			Errorf("on_gap: skip: source partition %s has lost offsets %d to %d on every source; they are left out", tp, g.from, g.to-1)
	}
}
