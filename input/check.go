package input

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redpanda-data/benthos/v4/public/service"
	"golang.org/x/sync/errgroup"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/preflight"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// checkTimeout bounds a whole check: what hangs is to be found, not waited for.
const checkTimeout = time.Minute

// check is one preflight in the making: it reads, and writes nothing.
type check struct {
	in        *Input
	selection relay.Selection
	target    relay.Target
	report    preflight.Report
	seen      []*checked // by source
}

// checked is what a check has found out about one source.
type checked struct {
	name    string
	report  preflight.Report
	source  *source // nil if it cannot be read
	configs map[string]kafka.TopicConfig
	preview *relay.Preview
	claims  []claim
	fitness fitness
	err     error // why it cannot be read on from where the target stands
}

// Check looks at every source and the target as configured and tells what it
// finds, and what would happen at a start. It changes nothing anywhere, and
// nothing of an input that runs.
func (in *Input) Check(ctx context.Context, target relay.Target) *preflight.Report {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	routes, err := in.Routes(ctx, target)
	c := &check{in: &Input{conf: in.conf.with(routes), log: in.log}, selection: in.conf.selection(target), target: target}
	if errors.Is(err, errNoMatch) {
		c.report.Add(preflight.Fail, preflight.OnSources, "topics", "%v", err)
		return &c.report
	}
	var all errgroup.Group
	for i, conn := range in.conf.sources {
		k := &checked{name: conn.Name}
		c.seen = append(c.seen, k)
		all.Go(func() error { c.look(ctx, i, k); return nil })
	}
	_ = all.Wait()
	for _, k := range c.seen {
		if k.source != nil {
			defer k.source.close()
		}
		c.report.Findings = append(c.report.Findings, k.report.Findings...)
	}
	c.compareSources(ctx)
	if c.first() == nil {
		c.lookAtTarget(ctx)
		c.report.Add(preflight.Fail, preflight.OnStart, "position", "no source can be read: the relay would wait, unready, until one can")
		return &c.report
	}
	c.stand(ctx)
	c.start()
	return &c.report
}

// each goes through the sources that can be read.
func (c *check) each(fn func(*checked)) {
	for _, k := range c.seen {
		if k.source != nil {
			fn(k)
		}
	}
}

// first is the first source that can be read, nil if none can.
func (c *check) first() *source {
	for _, k := range c.seen {
		if k.source != nil {
			return k.source
		}
	}
	return nil
}

// look tells whether a source can be reached, and of its topics.
func (c *check) look(ctx context.Context, i int, k *checked) {
	conn := c.in.conf.sources[i]
	ctx, cancel := context.WithTimeout(ctx, c.in.conf.lookTimeout())
	defer cancel()
	cluster, err := conn.Admin()
	if err != nil {
		k.report.Add(preflight.Fail, k.name, "connection", "%v", err)
		return
	}
	s := &source{index: i, name: conn.Name, conn: conn, cluster: cluster, committed: c.in.conf.committed}
	if s.desc, err = cluster.Describe(ctx, c.in.conf.topicNames()...); err != nil {
		k.report.Add(preflight.Fail, k.name, "connection", "%v", err)
		cluster.Close()
		return
	}
	k.report.AddConnection(k.name, conn, s.desc.ClusterID)
	c.topics(ctx, s, k)
	if !k.report.Failed() {
		if err := s.look(ctx, c.in.conf); err != nil {
			k.report.Add(preflight.Fail, k.name, "offsets", "%v", err)
		}
	}
	if k.report.Failed() {
		cluster.Close()
		return
	}
	k.source = s
}

func (c *check) topics(ctx context.Context, s *source, k *checked) {
	var err error
	if k.configs, err = s.cluster.Configs(ctx, c.in.conf.topicNames()...); err != nil {
		k.report.Add(preflight.Warn, k.name, "topics", "%v", err)
	}
	for _, name := range c.in.conf.topicNames() {
		t := s.desc.Topics[name]
		if err := t.Usable(s.name, name); err != nil {
			k.report.Add(preflight.Fail, k.name, "topic "+name, "%v", err)
			continue
		}
		k.report.Add(preflight.OK, k.name, "topic "+name, "%s", k.configs[name].Describe(t.Partitions))
	}
}

// lookAtTarget tells of the target alone, where no source can be asked.
func (c *check) lookAtTarget(ctx context.Context) {
	marks, err := c.target.Marks(ctx, c.selection)
	if err != nil {
		c.report.Add(preflight.Fail, preflight.OnTarget, "connection", "%v", err)
		return
	}
	c.report.Add(preflight.OK, preflight.OnTarget, "progress", "answers, and holds marks of %d source partitions", len(marks))
}

// stand asks where the target stands, for each source as a start would, and
// whether the source can be read on from there. What the relay does meanwhile
// must not make a source look short: its ends are asked for afterwards.
func (c *check) stand(ctx context.Context) {
	told := map[preflight.Finding]bool{}
	c.each(func(k *checked) {
		k.preview, k.err = c.target.Preview(ctx, relay.Query{ClusterID: k.source.desc.ClusterID, Topics: k.source.topics, Resume: c.in.conf.resume, Settings: k.source.settings})
		for _, f := range k.preview.Found.Findings {
			if !told[f] {
				told[f] = true
				c.report.Findings = append(c.report.Findings, f)
			}
		}
		if k.err == nil && k.preview.Standing == nil {
			k.err = errors.New("the target cannot take what the routes send it from here, see above")
		}
	})
	if c.alike() {
		return
	}
	c.each(func(k *checked) {
		if k.err == nil {
			k.source.ends, k.err = k.source.cluster.Offsets(ctx, c.in.conf.end(), k.source.names()...)
		}
		if k.err == nil {
			k.claims, k.fitness, k.err = c.claims(ctx, k.source, k.preview.Standing)
		}
		if k.err == nil {
			c.read(ctx, k)
		}
		c.sizes(k)
	})
}

// alike tells, once, of a reason that keeps every source from being relayed: it
// lies in the target.
func (c *check) alike() bool {
	text := ""
	for _, k := range c.seen {
		if k.source == nil {
			continue
		}
		if k.err == nil || (text != "" && text != k.err.Error()) {
			return false
		}
		text = k.err.Error()
	}
	c.report.Add(preflight.Fail, preflight.OnTarget, "position", "%s", text)
	return true
}

// claims is where each partition would begin on s, and the outcome of the
// examination that a start makes of it.
func (c *check) claims(ctx context.Context, s *source, st *relay.Standing) ([]claim, fitness, error) {
	r := resolver{in: c.in, source: s, target: c.target, standing: st}
	claims, err := r.resolve(ctx)
	if err != nil {
		return nil, fitness{}, r.explain(err)
	}
	f, err := c.in.fitness(ctx, s, claims, false) // what on_gap does depends on all sources
	if err != nil {
		return claims, f, r.explain(err)
	}
	return claims, f, nil
}

// start tells of each source whether it can be read on, and what a start would
// do.
func (c *check) start() {
	var chosen *checked
	c.each(func(k *checked) {
		switch u := (*unfit)(nil); {
		case k.err == nil:
			c.conditions(k)
			if chosen == nil {
				chosen = k
			}
		case errors.As(k.err, &u) && (u.state == pool.Short || (u.state == pool.Trimmed && c.in.conf.skipGaps)):
			c.report.Add(preflight.Warn, k.name, "position", "%v", k.err) // it may catch up; or on_gap decides
		default:
			c.report.Add(preflight.Fail, k.name, "position", "%v", k.err)
		}
	})
	if chosen == nil {
		chosen = c.skipping()
	}
	if chosen == nil {
		c.report.Add(preflight.Fail, preflight.OnStart, "position", "no source can be read on from where the target stands, see above")
		return
	}
	c.lagging(chosen)
	c.report.Source = chosen.name
	behind := int64(0)
	for i, cl := range chosen.claims {
		part := chosen.preview.Standing.Parts[i].Part
		c.report.Starts = append(c.report.Starts, preflight.Start{
			Partition: cl.tp.String(), Target: targetName(chosen.preview.Standing, part),
			Offset: cl.next, LogStart: chosen.source.starts[cl.tp], LogEnd: chosen.source.ends[cl.tp], Why: cl.why,
		})
		behind += c.report.Starts[i].Behind()
	}
	which := "reads " + chosen.name + " first"
	if c.in.conf.randomFirst {
		which = "reads " + chosen.name + " or another one first (initial_source: random)"
	}
	c.report.Add(preflight.OK, preflight.OnStart, "position", "%s, %d offsets of %d partitions are left to relay", which, behind, len(c.report.Starts))
}

// conditions tells under which a source can be read on.
func (c *check) conditions(k *checked) {
	if k.fitness.ignored != nil {
		c.report.Add(preflight.Warn, k.name, "position", "on_divergence: ignore: %v", k.fitness.ignored)
	}
	if len(k.fitness.unverified) > 0 {
		c.report.Add(preflight.Warn, k.name, "position", "%s (on_unverified: continue)", k.source.unverified(k.fitness.unverified))
	}
	c.report.Add(preflight.OK, k.name, "position", "can be read on from where the target stands")
}

// skipping is the source that on_gap: skip goes on with, once every one has lost
// records: the one that loses least.
func (c *check) skipping() *checked {
	if !c.in.conf.skipGaps {
		return nil
	}
	var best *checked
	least := int64(0)
	for _, k := range c.seen {
		var u *unfit
		if k.source == nil || !errors.As(k.err, &u) || (u.state != pool.Trimmed && u.state != pool.Diverged) {
			return nil // it may have them
		}
		if u.state == pool.Trimmed && (best == nil || u.lost < least) {
			best, least = k, u.lost
		}
	}
	if best == nil {
		return nil
	}
	for _, g := range best.source.skipGaps(best.claims) {
		c.report.Add(preflight.Warn, preflight.OnStart, "gap", "on_gap: skip would leave out offsets %d to %d of partition %s, which every source has lost", g.from, g.to-1, best.claims[g.claim].tp)
	}
	return best
}

// lagging tells if the pool would soon leave the source for one that is ahead.
func (c *check) lagging(chosen *checked) {
	threshold := c.in.conf.health.LagThreshold
	if threshold == 0 {
		return
	}
	c.each(func(k *checked) {
		lag := int64(0)
		for tp, end := range k.source.ends {
			lag += max(0, end-chosen.source.ends[tp])
		}
		if lag > threshold {
			c.report.Add(preflight.Warn, chosen.name, "lag", "is %d records behind %s, more than lag_threshold: that one would be read instead", lag, k.name)
		}
	})
}

// sizes tells of records that the source may hold and the target would refuse.
func (c *check) sizes(k *checked) {
	for _, t := range k.source.topics {
		from, to := k.configs[t.Route.Source], k.preview.Topics[t.Route.Target]
		most := k.preview.MaxMessageBytes
		if to.Known {
			most = min(most, to.MaxMessageBytes)
		}
		// The brokers' default is 12 bytes above that of clients: both 1 MiB.
		if from.Known && most > 0 && from.MaxMessageBytes > most+64 {
			c.report.Add(preflight.Warn, preflight.OnTarget, "topic "+t.Route.Target, "source %s takes batches of up to %s, the target and max_message_bytes %s: a larger record would be refused, and on_error decides; raise both for records near the limit",
				k.name, humanize.IBytes(uint64(from.MaxMessageBytes)), humanize.IBytes(uint64(most)))
		}
	}
}

const (
	// readTimeout bounds the reading of one record of each partition.
	readTimeout = 5 * time.Second
	// readAtMost bounds the partitions of which a record is read.
	readAtMost = 256
)

// read reads the next record of each partition, or the last where none is next:
// describing may be allowed where reading is not. It compares ages with what each
// side keeps.
func (c *check) read(ctx context.Context, k *checked) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var mu sync.Mutex
	oldest := map[string]time.Time{} // by source topic
	reader := k.source.reader()
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(samplesAtOnce)
	for _, cl := range k.claims[:min(len(k.claims), readAtMost)] {
		at, end := cl.next, k.source.ends[cl.tp]
		if at >= end {
			at = max(k.source.starts[cl.tp], end-1)
		}
		if at >= end {
			continue // empty
		}
		eg.Go(func() error {
			chunk, err := reader.Glance(ctx, cl.tp, at)
			if err != nil || len(chunk.Records) == 0 || at != cl.next {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if was, ok := oldest[cl.tp.Topic]; !ok || chunk.Records[0].Timestamp.Before(was) {
				oldest[cl.tp.Topic] = chunk.Records[0].Timestamp
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		k.err = fmt.Errorf("cannot be read: %w", err)
		return
	}
	for _, t := range k.source.topics {
		if at, ok := oldest[t.Route.Source]; ok {
			c.age(k, t.Route, time.Since(at))
		}
	}
}

// age compares the age of the next record to relay with what each side keeps.
func (c *check) age(k *checked, r relay.Route, age time.Duration) {
	target := k.preview.Topics[r.Target]
	if keep, ok := target.Expires(); ok && age > keep && !target.LogAppendTime {
		c.report.Add(preflight.Warn, preflight.OnTarget, "topic "+r.Target, "the next record of %s is %s old and the target keeps %s: Kafka deletes records by their own timestamps, so it would be gone at once; raise retention.ms", r.Source, kafka.Age(age), kafka.Age(keep))
	}
	if keep, ok := k.configs[r.Source].Expires(); ok && age > keep*3/4 {
		c.report.Add(preflight.Warn, k.name, "topic "+r.Source, "the next record to relay is %s old and the source keeps %s: start soon, or raise retention.ms", kafka.Age(age), kafka.Age(keep))
	}
}

// ConnectionTest says of every source what Check finds: that it can be reached,
// has the topics, agrees with the others and can be read on from where the
// target stands.
func (in *Input) ConnectionTest(ctx context.Context) service.ConnectionTestResults {
	target, err := in.target(ctx)
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
