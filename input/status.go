package input

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Status is how a relay stands, seen from outside, whether it runs or not.
type Status struct {
	Sources    []SourceStatus    `json:"sources"`
	Partitions []PartitionStatus `json:"partitions,omitempty"`
	// Target says what is the matter with the target; empty if nothing is.
	Target string `json:"target_error,omitempty"`
}

// SourceStatus is one source, by one look at it. A relay that runs may think
// better or worse of it, since it remembers earlier looks.
type SourceStatus struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Active: the source that was read last, by the marks on the target.
	Active bool `json:"active"`
	// Weight is the sum of its end offsets, -1 unless it is healthy.
	Weight int64 `json:"weight"`
	// Lag is in records, behind the best of the other sources.
	Lag    int64  `json:"lag"`
	Reason string `json:"reason,omitempty"`
}

// PartitionStatus is one source partition.
type PartitionStatus struct {
	Partition string `json:"partition"`
	Target    string `json:"target"`
	// Position is the next source offset to relay as of the last mark, which a
	// running relay writes once a second; -1 if the target has none.
	Position int64 `json:"position"`
	// End is the end of the partition in the source that is ahead; -1 if no
	// source can be asked.
	End int64 `json:"end"`
	// Lag is how many offsets are left to relay, -1 as End.
	Lag int64 `json:"lag"`
}

// Bad tells whether no source can be read, or the target does not answer.
func (s *Status) Bad() bool {
	for _, src := range s.Sources {
		if src.State == pool.Healthy.String() {
			return s.Target != ""
		}
	}
	return true
}

// look is one look at everything.
type look struct {
	in        *Input
	selection relay.Selection
	status    *Status
	sources   []*source // nil for one that cannot be read
	best      pool.Ends // the ends of the source that is ahead, by partition
}

// Status takes one look at every source and the target. It changes nothing.
func (in *Input) Status(ctx context.Context, target relay.Target) *Status {
	routes, err := in.Routes(ctx, target)
	l := &look{in: &Input{conf: in.conf.with(routes), log: in.log}, selection: in.conf.selection(target), status: &Status{}, sources: make([]*source, len(in.conf.sources))}
	l.status.Sources = make([]SourceStatus, len(l.sources))
	var all errgroup.Group
	for i, conn := range in.conf.sources {
		l.status.Sources[i] = SourceStatus{Name: conn.Name, State: pool.Unhealthy.String(), Weight: -1}
		all.Go(func() (err error) {
			ctx, cancel := l.deadline(ctx)
			defer cancel()
			if l.sources[i], err = openSource(ctx, l.in.conf, i, conn); err != nil {
				l.status.Sources[i].Reason = err.Error()
			}
			return nil
		})
	}
	_ = all.Wait()
	for _, s := range l.sources {
		if s != nil {
			defer s.close()
		}
	}
	var st *relay.Standing
	if !errors.Is(err, errNoMatch) {
		st, err = l.standing(ctx, target)
	}
	if err != nil {
		l.status.Target = err.Error()
	}
	l.ends(ctx) // after the marks: what is relayed meanwhile must not seem to lack in a source
	l.weigh()
	if st != nil {
		l.partitions(st)
		l.fit(st)
	}
	return l.status
}

func (l *look) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.in.conf.lookTimeout())
}

// standing asks for the marks, for as many partitions as any source has. With
// no source to ask, the marks alone make up the status.
func (l *look) standing(ctx context.Context, target relay.Target) (*relay.Standing, error) {
	q := relay.Query{Resume: l.in.conf.resume, MarksOnly: true}
	for _, s := range l.sources {
		if s == nil {
			continue
		}
		if q.Topics == nil {
			q.ClusterID, q.Topics = s.desc.ClusterID, slices.Clone(s.topics)
		}
		for i, t := range s.topics {
			if t.Partitions > q.Topics[i].Partitions {
				q.Topics[i] = t
			}
		}
	}
	if q.Topics == nil {
		marks, err := target.Marks(ctx, l.selection)
		for _, m := range marks {
			l.status.Partitions = append(l.status.Partitions, PartitionStatus{Partition: m.Source.String(), Target: m.Route.Target, Position: m.Next, End: -1, Lag: -1})
		}
		return nil, err
	}
	p, err := target.Preview(ctx, q)
	return p.Standing, cmp.Or(err, p.Found.Err())
}

// ends asks the sources for their ends again.
func (l *look) ends(ctx context.Context) {
	var all errgroup.Group
	for i, s := range l.sources {
		if s == nil {
			continue
		}
		all.Go(func() error {
			ctx, cancel := l.deadline(ctx)
			defer cancel()
			if ends, err := s.cluster.Offsets(ctx, l.in.conf.end(), s.names()...); err != nil {
				l.status.Sources[i].Reason = err.Error()
			} else {
				s.ends = ends
				l.status.Sources[i].State, l.status.Sources[i].Weight = pool.Healthy.String(), pool.Ends(ends).Sum()
			}
			return nil
		})
	}
	_ = all.Wait()
}

// weigh finds the best ends, and how far each source is behind them.
func (l *look) weigh() {
	l.best = pool.Ends{}
	for _, s := range l.sources {
		if s != nil {
			for tp, end := range s.ends {
				l.best[tp] = max(l.best[tp], end)
			}
		}
	}
	for i, s := range l.sources {
		if s != nil {
			for tp, end := range l.best {
				l.status.Sources[i].Lag += end - s.ends[tp]
			}
		}
	}
}

// partitions tells how far each one has come.
func (l *look) partitions(st *relay.Standing) {
	for _, ps := range st.Parts {
		tp := ps.Part.Source
		p := PartitionStatus{Partition: tp.String(), Target: targetName(st, ps.Part), Position: positionOf(ps, l.in.conf.resume), End: l.best[tp]}
		from := p.Position
		if from < 0 {
			from = l.start(tp)
		}
		p.Lag = max(0, p.End-from)
		l.status.Partitions = append(l.status.Partitions, p)
	}
}

// positionOf is the next source offset to relay of one partition, -1 if the
// target does not tell.
func positionOf(ps relay.PartStanding, resume position.Resume) int64 {
	switch {
	case ps.Evidence.Mark != nil:
		return ps.Evidence.Mark.Next
	case resume == position.ResumeWatermark:
		return ps.Evidence.Targets[0].End
	}
	return -1
}

// start is the lowest log start of a partition.
func (l *look) start(tp position.TP) int64 {
	lowest := l.best[tp]
	for _, s := range l.sources {
		if s != nil {
			if start, ok := s.starts[tp]; ok {
				lowest = min(lowest, start)
			}
		}
	}
	return lowest
}

// fit tells which source was read last, and which cannot be read on from where
// the target stands.
func (l *look) fit(st *relay.Standing) {
	var claims []claim
	var active position.SourceID
	latest := int64(-1)
	for _, ps := range st.Parts {
		if next := positionOf(ps, l.in.conf.resume); next >= 0 {
			claims = append(claims, claim{tp: ps.Part.Source, next: next})
		}
		if m := ps.Evidence.Mark; m != nil && len(m.Sources) > 0 && ps.Evidence.MarkOffset > latest {
			active, latest = m.Sources[len(m.Sources)-1], ps.Evidence.MarkOffset
		}
	}
	for i, s := range l.sources {
		if s == nil {
			continue
		}
		status := &l.status.Sources[i]
		status.Active = active.ClusterID != "" && s.desc.ClusterID == active.ClusterID
		var u *unfit
		switch err := s.reaches(claims); {
		case s.desc.ClusterID != "" && s.desc.ClusterID == st.ClusterID:
			status.State, status.Weight, status.Reason = pool.Diverged.String(), -1, relay.IsSource(st.ClusterID).Error()
		case errors.As(err, &u):
			status.State, status.Weight, status.Reason = u.state.String(), -1, u.stop.Reason
		}
	}
}

// targetName is where a part is written to.
func targetName(st *relay.Standing, p relay.Part) string {
	if len(st.Slots) == 0 {
		return "the output" // which is not ours
	}
	if p.Slots > 1 {
		return p.Route.Target + " by key"
	}
	return st.Slots[p.FirstSlot].String()
}
