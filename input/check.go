package input

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redpanda-data/benthos/v4/public/service"
	"golang.org/x/sync/errgroup"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/preflight"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Subjects of findings that are about no single source.
const (
	onSources = "sources"
	onTarget  = "target"
	onStart   = "start"
)

// check is one preflight in the making: it reads, and writes nothing.
type check struct {
	in      *Input
	target  relay.Target
	report  preflight.Report
	found   []preflight.Report // by source
	sources []*source          // by index; nil for one that cannot be read
	configs []map[string]kafka.TopicConfig
}

// Check looks at every source and the target as configured and tells what it
// finds, and what would happen at a start. It changes nothing anywhere.
func (in *Input) Check(ctx context.Context, target relay.Target) *preflight.Report {
	n := len(in.conf.sources)
	c := &check{in: in, target: target, found: make([]preflight.Report, n), sources: make([]*source, n), configs: make([]map[string]kafka.TopicConfig, n)}
	defer c.close()
	var all errgroup.Group
	for i := range in.conf.sources {
		all.Go(func() error { c.look(ctx, i); return nil })
	}
	_ = all.Wait()
	for _, f := range c.found {
		c.report.Findings = append(c.report.Findings, f.Findings...)
	}
	c.oneCluster()
	c.agree(ctx)
	if first := c.first(); first != nil {
		c.start(ctx, first)
	} else {
		c.report.Add(preflight.Fail, onStart, "position", "no source can be read: the relay would wait, unready, until one can")
	}
	return &c.report
}

func (c *check) close() {
	for _, s := range c.sources {
		if s != nil {
			s.close()
		}
	}
}

// look tells whether a source can be reached, and of its topics.
func (c *check) look(ctx context.Context, i int) {
	conn, rep := c.in.conf.sources[i], &c.found[i]
	ctx, cancel := context.WithTimeout(ctx, max(3*c.in.conf.timeout, 3*time.Second))
	defer cancel()
	cluster, err := conn.Admin()
	if err != nil {
		rep.Add(preflight.Fail, conn.Name, "connection", "%v", err)
		return
	}
	s := &source{index: i, name: conn.Name, conn: conn, cluster: cluster, committed: c.in.conf.committed}
	if s.desc, err = cluster.Describe(ctx, c.in.conf.topicNames()...); err != nil {
		rep.Add(preflight.Fail, conn.Name, "connection", "%v", err)
		cluster.Close()
		return
	}
	rep.Add(preflight.OK, conn.Name, "connection", "%s, cluster ID %s", conn.Security(), s.desc.ClusterID)
	if c.topics(ctx, s, rep); rep.Failed() {
		cluster.Close()
		return
	}
	if err := s.look(ctx, c.in.conf); err != nil {
		rep.Add(preflight.Fail, conn.Name, "offsets", "%v", err)
		cluster.Close()
		return
	}
	c.sources[i] = s
}

func (c *check) topics(ctx context.Context, s *source, rep *preflight.Report) {
	configs, err := s.cluster.Configs(ctx, c.in.conf.topicNames()...)
	if err != nil {
		rep.Add(preflight.Warn, s.name, "topics", "%v", err)
	}
	c.configs[s.index] = configs
	for _, name := range c.in.conf.topicNames() {
		t := s.desc.Topics[name]
		if err := t.Usable(s.name, name); err != nil {
			rep.Add(preflight.Fail, s.name, "topic "+name, "%v", err)
			continue
		}
		rep.Add(preflight.OK, s.name, "topic "+name, "%s", configs[name].Describe(t.Partitions))
	}
}

// oneCluster tells of two sources that are one cluster, and of partition counts
// that differ.
func (c *check) oneCluster() {
	for i, s := range c.sources {
		for _, o := range c.sources[:i] {
			if s == nil || o == nil {
				continue
			}
			if s.desc.ClusterID != "" && s.desc.ClusterID == o.desc.ClusterID {
				c.report.Add(preflight.Fail, onSources, "clusters", "%s and %s are one cluster (ID %s): check their seed_brokers", o.name, s.name, s.desc.ClusterID)
			}
			for k, t := range s.topics {
				if n := o.topics[k].Partitions; n != t.Partitions {
					c.report.Add(preflight.Warn, onSources, "topic "+t.Route.Source, "%s has %d partitions and %s %d: the one with fewer cannot be read once the others have been relayed", o.name, n, s.name, t.Partitions)
				}
			}
		}
	}
}

// agreeSamples bounds the records compared between two sources altogether; each
// partition has its last common one compared, and some more if few share it.
const agreeSamples = 256

// agree compares samples of every source with the first one.
func (c *check) agree(ctx context.Context) {
	first := c.first()
	for _, s := range c.sources {
		if s == nil || s == first {
			continue
		}
		compared, err := first.agrees(ctx, s)
		switch u := (*unfit)(nil); {
		case errors.As(err, &u):
			c.report.Add(preflight.Fail, onSources, "agreement", "%s", u.stop.Reason)
		case err != nil:
			c.report.Add(preflight.Warn, onSources, "agreement", "%v", err)
		case compared == 0:
			c.report.Add(preflight.Warn, onSources, "agreement", "%s and %s have no record at a common offset to compare", first.name, s.name)
		default:
			c.report.Add(preflight.OK, onSources, "agreement", "%s holds the same records as %s at %d sampled offsets", s.name, first.name, compared)
		}
	}
}

// agrees reads records at common offsets of two sources. The error is an *unfit
// if one differs.
func (s *source) agrees(ctx context.Context, o *source) (int, error) {
	each := max(1, min(position.MaxPairs, agreeSamples/max(1, len(s.ends))))
	mine, others := s.reader(), o.reader()
	counts := make([]int, 0, len(s.ends))
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(samplesAtOnce)
	for tp, end := range s.ends {
		from, to := max(s.starts[tp], o.starts[tp]), min(end, o.ends[tp])
		counts = append(counts, 0)
		n := &counts[len(counts)-1]
		eg.Go(func() error {
			for _, at := range spread(from, to, each) {
				a, err1 := mine.At(ctx, tp, at)
				b, err2 := others.At(ctx, tp, at)
				if err := errors.Join(err1, err2); err != nil {
					return err
				}
				if a == nil || b == nil { // compacted away, or a control record
					continue
				}
				*n++
				if fa, fb := record.Fingerprint(a), record.Fingerprint(b); fa != fb {
					return diverged(&position.Stop{Reason: fmt.Sprintf("partition %s, offset %d is %s on %s and %s on %s (fingerprints %s and %s): they are not copies of each other; whichever was not written by the mirror must be mirrored anew", tp, at, show(a), s.name, show(b), o.name, fa, fb)})
				}
			}
			return nil
		})
	}
	err := eg.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	return total, err
}

// spread chooses up to n offsets of [from, to), the last one among them.
func spread(from, to int64, n int) []int64 {
	var out []int64
	for i := range int64(n) {
		if at := to - 1 - i*max(1, (to-from)/int64(n)); at >= from {
			out = append(out, at)
		}
	}
	slices.Reverse(out)
	return out
}

// first is the source that would be read first, nil if none can be.
func (c *check) first() *source {
	for _, s := range c.sources {
		if s != nil {
			return s
		}
	}
	return nil
}

// start tells what a start would do: where the target stands, which source
// could be read on from there, and where each partition would begin.
func (c *check) start(ctx context.Context, first *source) {
	p, err := c.target.Preview(ctx, relay.Query{ClusterID: first.desc.ClusterID, Topics: first.topics, Resume: c.in.conf.resume})
	c.report.Findings = append(c.report.Findings, p.Found.Findings...)
	switch {
	case err != nil:
		c.report.Add(preflight.Fail, onTarget, "position", "%v", err)
		return
	case p.Standing == nil:
		c.report.Add(preflight.Fail, onStart, "position", "the target cannot take what the routes send it, see above")
		return
	}
	for _, s := range c.sources {
		if s == nil {
			continue
		}
		claims, err := c.claims(ctx, s, p.Standing)
		if err == nil {
			c.sizes(s, p)
			c.ages(ctx, s, p, claims)
		}
		c.fits(s, err)
		if err == nil && c.report.Source == "" {
			c.report.Source = s.name
			c.report.Starts = starts(s, p.Standing, claims)
		}
	}
	if c.report.Source == "" {
		c.report.Add(preflight.Fail, onStart, "position", "no source can be read on from where the target stands, see above")
		return
	}
	behind := int64(0)
	for _, st := range c.report.Starts {
		behind += st.Behind()
	}
	c.report.Add(preflight.OK, onStart, "position", "reads %s first, %d offsets of %d partitions are left to relay", c.report.Source, behind, len(c.report.Starts))
}

// claims is where each partition would begin on s, and the outcome of the
// examination that a start makes of it.
func (c *check) claims(ctx context.Context, s *source, st *relay.Standing) ([]claim, error) {
	mine := *st
	mine.Parts = slices.Clone(st.Parts)
	for i := range mine.Parts {
		mine.Parts[i].Evidence.Source = s.id(mine.Parts[i].Part.Source.Topic)
	}
	r := resolver{in: c.in, source: s, target: c.target, standing: &mine}
	claims, err := r.resolve(ctx)
	if err != nil {
		return nil, r.explain(err)
	}
	if c.in.conf.skipGaps {
		s.skipGaps(claims)
	}
	unverified, err := s.examine(ctx, claims)
	if err != nil {
		return nil, r.explain(err)
	}
	if len(unverified) > 0 {
		level := preflight.Warn
		if !c.in.conf.trustUnverified {
			level = preflight.Fail
		}
		c.report.Add(level, s.name, "position", "no record relayed before is left to compare it with, in %d partitions, %s among them (on_unverified)", len(unverified), unverified[0])
	}
	return claims, nil
}

// fits tells whether a source can be read on from where the target stands.
func (c *check) fits(s *source, err error) {
	level := preflight.Fail
	var u *unfit
	switch {
	case err == nil:
		c.report.Add(preflight.OK, s.name, "position", "can be read on from where the target stands")
		return
	case errors.As(err, &u) && u.state == pool.Short:
		level = preflight.Warn // it may catch up
	}
	c.report.Add(level, s.name, "position", "%v", err)
}

// sizes tells of records that the source may hold and the target would refuse.
func (c *check) sizes(s *source, p *relay.Preview) {
	for _, t := range s.topics {
		from, to := c.configs[s.index][t.Route.Source], p.Topics[t.Route.Target]
		most := p.MaxMessageBytes
		if to.Known {
			most = min(most, to.MaxMessageBytes)
		}
		// The brokers' default is 12 bytes above that of clients: both 1 MiB.
		if from.Known && from.MaxMessageBytes > most+64 {
			c.report.Add(preflight.Warn, onTarget, "topic "+t.Route.Target, "source %s takes batches of up to %s, the target and max_message_bytes %s: a larger record would be refused, and on_error decides; raise both for records near the limit",
				s.name, humanize.IBytes(uint64(from.MaxMessageBytes)), humanize.IBytes(uint64(most)))
		}
	}
}

// ages compares the oldest record to be relayed with what each side keeps.
func (c *check) ages(ctx context.Context, s *source, p *relay.Preview, claims []claim) {
	oldest := map[string]time.Time{} // by source topic
	reader := s.reader()
	for _, cl := range claims[:min(len(claims), agreeSamples)] {
		if cl.next >= s.ends[cl.tp] {
			continue
		}
		chunk, err := reader.Glance(ctx, cl.tp, cl.next)
		if err != nil || len(chunk.Records) == 0 {
			continue
		}
		if at, ok := oldest[cl.tp.Topic]; !ok || chunk.Records[0].Timestamp.Before(at) {
			oldest[cl.tp.Topic] = chunk.Records[0].Timestamp
		}
	}
	for _, t := range s.topics {
		at, ok := oldest[t.Route.Source]
		if !ok {
			continue
		}
		age := time.Since(at)
		if keep, ok := p.Topics[t.Route.Target].Expires(); ok && age > keep && !p.Topics[t.Route.Target].LogAppendTime {
			c.report.Add(preflight.Warn, onTarget, "topic "+t.Route.Target, "the next record of %s is %s old and the target keeps %s: Kafka deletes records by their own timestamps, so it would be gone at once; raise retention.ms", t.Route.Source, kafka.Age(age), kafka.Age(keep))
		}
		if keep, ok := c.configs[s.index][t.Route.Source].Expires(); ok && age > keep*3/4 {
			c.report.Add(preflight.Warn, s.name, "topic "+t.Route.Source, "the next record to relay is %s old and the source keeps %s: start soon, or raise retention.ms", kafka.Age(age), kafka.Age(keep))
		}
	}
}

func starts(s *source, st *relay.Standing, claims []claim) []preflight.Start {
	out := make([]preflight.Start, len(claims))
	for i, cl := range claims {
		out[i] = preflight.Start{Partition: cl.tp.String(), Target: targetName(st, st.Parts[i].Part), Offset: cl.next, LogStart: s.starts[cl.tp], LogEnd: s.ends[cl.tp], Why: cl.why}
	}
	return out
}

// ConnectionTest says of every source what Check finds: that it can be reached,
// has the topics, agrees with the others and can be read on from where the
// target stands.
func (in *Input) ConnectionTest(ctx context.Context) service.ConnectionTestResults {
	target, err := in.hub.Target(ctx, in.res, in.conf.relay)
	if err != nil {
		return service.ConnectionTestFailed(err).AsList()
	}
	var results service.ConnectionTestResults
	for _, f := range in.Check(ctx, target).Findings {
		if f.Level == preflight.Fail {
			results = append(results, service.ConnectionTestFailed(errors.New(f.String())))
		}
	}
	if len(results) == 0 {
		return service.ConnectionTestSucceeded().AsList()
	}
	return results
}
