package input

import (
	"context"
	"errors"
	"time"

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
	// End is the end of the partition in the source that is ahead.
	End int64 `json:"end"`
	// Lag is how many offsets are left to relay.
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

// Status takes one look at every source and the target. It changes nothing.
func (in *Input) Status(ctx context.Context, target relay.Target) *Status {
	sources := make([]*source, len(in.conf.sources))
	st := &Status{Sources: make([]SourceStatus, len(sources))}
	var all errgroup.Group
	for i, conn := range in.conf.sources {
		st.Sources[i] = SourceStatus{Name: conn.Name, State: pool.Unhealthy.String(), Weight: -1}
		all.Go(func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, max(3*in.conf.timeout, 3*time.Second))
			defer cancel()
			if sources[i], err = openSource(ctx, in.conf, i, conn); err != nil {
				st.Sources[i].Reason = err.Error()
			}
			return nil
		})
	}
	_ = all.Wait()
	best := pool.Ends{}
	var first *source
	for i, s := range sources {
		if s == nil {
			continue
		}
		defer s.close()
		if first == nil {
			first = s
		}
		st.Sources[i].State, st.Sources[i].Weight = pool.Healthy.String(), pool.Ends(s.ends).Sum()
		for tp, end := range s.ends {
			best[tp] = max(best[tp], end)
		}
	}
	for i, s := range sources {
		if s != nil {
			for tp, end := range best {
				st.Sources[i].Lag += end - s.ends[tp]
			}
		}
	}
	if first != nil {
		in.standing(ctx, st, target, first, sources, best)
	}
	return st
}

// standing adds where the target stands, and which sources can be read on from
// there.
func (in *Input) standing(ctx context.Context, st *Status, target relay.Target, first *source, sources []*source, best pool.Ends) {
	p, err := target.Preview(ctx, relay.Query{ClusterID: first.desc.ClusterID, Topics: first.topics, Resume: in.conf.resume, MarksOnly: true})
	for _, f := range p.Found.Findings {
		if f.Level == "fail" && err == nil {
			err = errors.New(f.Text)
		}
	}
	if err != nil {
		st.Target = err.Error()
		return
	}
	var claims []claim
	active := position.SourceID{}
	for _, ps := range p.Standing.Parts {
		tp := ps.Part.Source
		part := PartitionStatus{Partition: tp.String(), Target: targetName(p.Standing, ps.Part), Position: -1, End: best[tp], Lag: best[tp] - first.starts[tp]}
		switch m := ps.Evidence.Mark; {
		case m != nil:
			part.Position = m.Next
			if n := len(m.Sources); n > 0 {
				active = m.Sources[n-1]
			}
		case in.conf.resume == position.ResumeWatermark:
			part.Position = ps.Evidence.Targets[0].End
		}
		if part.Position >= 0 {
			part.Lag = max(0, best[tp]-part.Position)
			claims = append(claims, claim{tp: tp, next: part.Position})
		}
		st.Partitions = append(st.Partitions, part)
	}
	for i, s := range sources {
		if s == nil {
			continue
		}
		st.Sources[i].Active = active.ClusterID != "" && s.desc.ClusterID == active.ClusterID
		var u *unfit
		if err := s.reaches(claims); errors.As(err, &u) {
			st.Sources[i].State, st.Sources[i].Weight, st.Sources[i].Reason = u.state.String(), -1, u.stop.Reason
		}
	}
}

// targetName is where a part is written to.
func targetName(st *relay.Standing, p relay.Part) string {
	if p.Slots > 1 {
		return p.Route.Target + " by key"
	}
	return st.Slots[p.FirstSlot].String()
}
