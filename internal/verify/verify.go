package verify

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Options say what is compared, and how.
type Options struct {
	Source, Target *kafka.Cluster
	Routes         []relay.Route
	// Committed hides records of open and aborted transactions of the source.
	Committed bool
	// Rules, Header and RelayID are the output's.
	Rules   record.Rules
	Header  string
	RelayID string
	// Positions are the next offsets to relay, by the marks, where there are
	// any. They are to be read before Run.
	Positions map[position.TP]int64
	// Since, unless zero, leaves out what is older.
	Since time.Time
	// Later: start_offset may begin behind the start of the source's log.
	Later bool
	// Pipeline is applied to the source's records; nil: they are expected as
	// they are.
	Pipeline *Pipeline
	// Total is told once how many offsets there are to read on both sides, and
	// Passed, from several goroutines, how many were passed.
	Total  func(n int64)
	Passed func(n int64)
}

// Topic is the report of one target topic.
type Topic struct {
	Target string        `json:"target"`
	Routes []relay.Route `json:"-"`
	*Report
}

// Result is the outcome of Run.
type Result struct {
	Topics   []Topic  `json:"topics"`
	Total    Report   `json:"total"`
	Warnings []string `json:"warnings,omitempty"`
}

const (
	// windowAltogether is how many source records are held in memory at most,
	// but for minWindow of each partition.
	windowAltogether = 1 << 19
	// bytesAtOnce bounds what is being fetched, over all partitions.
	bytesAtOnce = 8 << 20
	leastBytes  = 64 << 10
	mostBytes   = 1 << 20
)

// Run compares source and target up to their present ends.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := &run{Options: o, result: &Result{}}
	if err := r.describe(ctx); err != nil {
		return nil, err
	}
	r.warn()
	var works []Work
	for _, t := range r.result.Topics {
		works = append(works, r.work(t))
	}
	if o.Total != nil {
		o.Total(r.total)
	}
	for i, w := range works {
		rep, err := Compare(ctx, w)
		if err != nil {
			return nil, err
		}
		r.result.Topics[i].Report = rep
		r.result.Total.Add(rep)
	}
	if n := r.result.Total.Expired; n > 0 {
		r.warning("%d records were removed from one side by retention: there is nothing to compare them with", n)
	}
	if n := r.result.Total.Before; n > 0 {
		r.warning("%d records lie before the first one relayed, where start_offset begins: they are not expected", n)
	}
	return r.result, nil
}

type run struct {
	Options
	result         *Result
	source, target side
	total          int64
}

// side is one cluster as found at the start.
type side struct {
	desc               *kafka.Description
	configs            map[string]kafka.TopicConfig
	starts, ends, from map[position.TP]int64
}

func (r *run) warning(format string, args ...any) {
	r.result.Warnings = append(r.result.Warnings, fmt.Sprintf(format, args...))
}

func (r *run) describe(ctx context.Context) error {
	var sources []string
	for _, route := range r.Routes {
		sources = append(sources, route.Source)
		i := slices.IndexFunc(r.result.Topics, func(t Topic) bool { return t.Target == route.Target })
		if i < 0 {
			i = len(r.result.Topics)
			r.result.Topics = append(r.result.Topics, Topic{Target: route.Target})
		}
		r.result.Topics[i].Routes = append(r.result.Topics[i].Routes, route)
	}
	var targets []string
	for _, t := range r.result.Topics {
		targets = append(targets, t.Target)
	}
	if err := r.source.describe(ctx, r.Source, kafka.End(r.Committed), r.Since, sources); err != nil {
		return fmt.Errorf("source %w", err)
	}
	if err := r.target.describe(ctx, r.Target, kafka.LastStable, r.Since, targets); err != nil {
		return fmt.Errorf("target %w", err)
	}
	return nil
}

func (s *side) describe(ctx context.Context, c *kafka.Cluster, end kafka.Bound, since time.Time, topics []string) (err error) {
	if s.desc, s.ends, err = c.Look(ctx, end, topics...); err != nil {
		return err
	}
	if s.starts, err = c.Offsets(ctx, kafka.LogStart, topics...); err != nil {
		return err
	}
	if s.configs, err = c.Configs(ctx, topics...); err != nil {
		return err
	}
	if s.from = s.starts; since.IsZero() {
		return nil
	}
	s.from, err = c.OffsetsAt(ctx, since, topics...)
	return err
}

// begin is where a partition is read from.
func (s *side) begin(tp position.TP) int64 { return min(s.from[tp], s.ends[tp]) }

// cut tells whether it is read from where its log begins, and records were
// removed before that.
func (s *side) cut(tp position.TP) bool { return s.starts[tp] > 0 && s.begin(tp) <= s.starts[tp] }

// warn tells of what makes the comparison say less.
func (r *run) warn() {
	for _, route := range r.Routes {
		if r.source.configs[route.Source].Compact {
			r.warning("source topic %s is compacted: records compacted away since they were relayed count as foreign", route.Source)
		}
	}
	for _, t := range r.result.Topics {
		c := r.target.configs[t.Target]
		if !c.Known {
			r.warning("the configuration of target topic %s may not be read: timestamps are not compared", t.Target)
		}
		if c.Compact {
			r.warning("target topic %s is compacted: records compacted away count as lost", t.Target)
		}
		if c.LogAppendTime {
			r.warning("target topic %s has message.timestamp.type=LogAppendTime: timestamps are not compared", t.Target)
		}
	}
}

// work puts together what belongs to one target topic.
func (r *run) work(t Topic) Work {
	w := Work{Window: windowAltogether}
	partitions := r.target.desc.Topics[t.Target].Partitions
	streams := partitions
	for _, route := range t.Routes {
		streams += r.source.desc.Topics[route.Source].Partitions
	}
	bytes := min(mostBytes, max(leastBytes, bytesAtOnce/streams))
	timestamps := r.target.configs[t.Target].Known && !r.target.configs[t.Target].LogAppendTime
	f := finding{header: r.Header, relayID: r.RelayID, timestamps: timestamps, sources: map[position.TP]int{}, same: -1}
	same := map[int32]int{} // by target partition
	for _, route := range t.Routes {
		e := &expecting{route: route, partitions: int(partitions), timestamps: timestamps, rules: r.Rules, header: r.Header, relayID: r.RelayID, pipeline: r.Pipeline, since: r.Since}
		for p := range r.source.desc.Topics[route.Source].Partitions {
			tp := position.TP{Topic: route.Source, Partition: p}
			f.sources[tp] = len(w.Sources)
			if route.Mode == relay.SamePartition {
				same[p] = len(w.Sources)
			}
			w.Sources = append(w.Sources, r.sourcePart(tp, e, bytes))
		}
	}
	for p := range partitions {
		mine := f
		if i, ok := same[p]; ok {
			mine.same = i
		}
		w.Targets = append(w.Targets, r.targetPart(position.TP{Topic: t.Target, Partition: p}, &mine, bytes))
	}
	return w
}

func (r *run) sourcePart(tp position.TP, e *expecting, bytes int32) Source {
	s := Source{Name: tp.String(), Begin: r.source.begin(tp), End: r.source.ends[tp], Cut: r.source.cut(tp), Position: -1, Later: r.Later}
	if at, ok := r.Positions[tp]; ok {
		s.Position = at
	}
	s.Latest = func(ctx context.Context) (int64, error) {
		ends, err := r.Source.Offsets(ctx, kafka.HighWatermark, tp.Topic)
		return ends[tp], err
	}
	r.total += s.End - s.Begin
	var once atomic.Bool // what is read again counts once
	s.Open = func(from int64) Stream[Expected] {
		p := partition{cluster: r.Source, tp: tp, from: from, to: s.End, committed: r.Committed, bytes: bytes, passed: r.count(!once.Swap(true))}
		return stream(p, e.convert, e.gone)
	}
	return s
}

func (r *run) targetPart(tp position.TP, f *finding, bytes int32) Target {
	t := Target{Name: tp.String(), Begin: r.target.begin(tp), End: r.target.ends[tp]}
	if r.target.cut(tp) {
		t.Removed = r.target.starts[tp]
	}
	r.total += t.End - t.Begin
	t.Open = func() Stream[Found] {
		p := partition{cluster: r.Target, tp: tp, from: t.Begin, to: t.End, committed: true, bytes: bytes, passed: r.count(true)}
		return stream(p, f.convert, f.gone)
	}
	return t
}

func (r *run) count(counts bool) func(int64) {
	if r.Passed == nil || !counts {
		return func(int64) {}
	}
	return r.Passed
}
