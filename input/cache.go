package input

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/cachemarks"
	"github.com/kafka-failover/kafka-failover/internal/preflight"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

const (
	// cacheInterval is the least time between two writes of marks.
	cacheInterval = time.Second
	// cacheCloseTimeout bounds the last write: without it the next start repeats
	// what was acknowledged since the one before.
	cacheCloseTimeout = 3 * time.Second
)

// cacheTarget is the relay's target where the output is not Kafka: it knows of
// what was delivered by acknowledgements alone, and keeps their contiguous prefix
// as marks in a cache. Calls come from the input's goroutine, and Close; between
// Begin and the next Stand the store is keep's.
type cacheTarget struct {
	res   *service.Resources
	log   *service.Logger
	conf  cacheConf
	name  string
	store *cachemarks.Store

	gen     *relay.Generation  // nil before the first
	written time.Time          // when marks were written last, or were to be
	stop    context.CancelFunc // ends keep; nil unless it runs
	keeping sync.WaitGroup
}

func newCacheTarget(conf config, res *service.Resources) (*cacheTarget, error) {
	if !res.HasCache(conf.cache.resource) {
		return nil, fmt.Errorf("resume_cache %q names no cache resource: add one with this label to cache_resources", conf.cache.resource)
	}
	c := &cacheTarget{res: res, log: res.Logger(), conf: conf.cache, name: cacheNameOf(conf, res)}
	var err error
	c.store, err = c.newStore()
	return c, err
}

func (c *cacheTarget) newStore() (*cachemarks.Store, error) {
	return cachemarks.New(func(ctx context.Context, use func(service.Cache)) error {
		return c.res.AccessCache(ctx, c.conf.resource, use)
	}, c.name)
}

// errCacheBesideOutput refuses two keepers of one relay's positions.
var errCacheBesideOutput = &position.Stop{
	Reason: "resume: cache is for outputs that are not Kafka, and this stream has a kafka_failover output, whose target keeps the positions itself",
	Cure:   "remove resume: cache and resume_cache, or use another output",
}

// target is where the input asks how far it has come: the output it is paired
// with, or its own cache.
func (in *Input) target(ctx context.Context) (relay.Target, error) {
	switch {
	case in.cache == nil:
		return in.hub.Target(ctx, in.res, in.conf.relay)
	case in.hub.HasOutput():
		return nil, errCacheBesideOutput
	}
	return in.cache, nil
}

// lasted tells whether the generation has come so far that its end is no
// repetition of the one before.
func (in *Input) lasted() bool {
	if in.gen.IsAlone() {
		return in.gen.Passed()
	}
	return time.Since(in.began) > 2*in.conf.retry.longest
}

// refusedForGood is the stop after the last of the permitted retries of a batch
// that the output refuses, or nil.
func (in *Input) refusedForGood() error {
	most := in.conf.retry.max
	if !in.gen.IsAlone() || most < 0 || in.short <= most+1 {
		return nil
	}
	return &position.Stop{Reason: fmt.Sprintf("gave up after a batch was refused %d times in a row (retry.max_retries): %v", in.short, in.gen.Broken())}
}

// Target is what Check and Status are to be asked with where there is no
// kafka_failover output; nil without resume: cache.
func (in *Input) Target() relay.Target {
	if in.cache == nil {
		return nil
	}
	return in.cache
}

// Stand implements relay.Target. What the last generation has come to is written
// first.
func (c *cacheTarget) Stand(ctx context.Context, q relay.Query) (*relay.Standing, error) {
	c.endKeeping()
	if c.gen != nil {
		if d := c.gen.Disowned(); d != nil {
			return nil, &position.Stop{Reason: d.Err.Error()}
		}
		if err := c.save(ctx); err != nil {
			return nil, c.failing(err)
		}
	}
	marks, err := c.store.Load(ctx)
	if err != nil {
		return nil, c.failing(err)
	}
	return c.standing(q, marks), nil
}

// failing says of an error that the cache is to blame, unless it is a stop.
func (c *cacheTarget) failing(err error) error {
	if stop := (*position.Stop)(nil); errors.As(err, &stop) {
		return err
	}
	return fmt.Errorf("cache resource %q does not keep the positions, waiting for it: %w", c.conf.resource, err)
}

// standing is what marks tell of each source partition.
func (c *cacheTarget) standing(q relay.Query, marks map[position.Key]position.Mark) *relay.Standing {
	st := &relay.Standing{RelayID: c.name, MaxInFlight: c.conf.maxInFlight, Marked: map[string]int32{}}
	for k, m := range marks {
		st.Marked[k.Source.Topic] = max(st.Marked[k.Source.Topic], m.Partitions)
	}
	for _, t := range q.Topics {
		now := position.SourceID{ClusterID: q.ClusterID, TopicID: t.TopicID}
		for p := range t.Partitions {
			part := relay.Part{
				Source: position.TP{Topic: t.Route.Source, Partition: p}, Route: t.Route,
				SourcePartitions: t.Partitions, Sources: []position.SourceID{now},
			}
			e := position.Evidence{Key: part.Key(c.name), Resume: q.Resume, Source: now, NewPartition: st.Marked[t.Route.Source] > 0}
			if m, ok := marks[e.Key]; ok {
				e.Mark = &m
				part.Sources = position.Remember(m.Sources, now)
			}
			st.Parts = append(st.Parts, relay.PartStanding{Part: part, Evidence: e})
		}
	}
	return st
}

// alone are the terms of the next generation.
func (c *cacheTarget) alone() *relay.Alone {
	a := &relay.Alone{MaxInFlight: c.conf.maxInFlight}
	if c.gen != nil {
		a.Careful = c.gen.Refused()
	}
	return a
}

// Begin implements relay.Target.
func (c *cacheTarget) Begin(ctx context.Context, g *relay.Generation) error {
	before := c.gen
	c.store.Claim()
	c.gen = g
	if err := c.save(ctx); err != nil {
		c.gen = before // nothing of g was read
		return c.failing(err)
	}
	keep, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.keeping.Go(func() { c.keep(keep, g) })
	return nil
}

// keep writes marks of what has moved, once a second. While that fails the
// relay is unready and reads nothing more: what is read again after a kill stays
// within bounds.
func (c *cacheTarget) keep(ctx context.Context, g *relay.Generation) {
	tick := time.NewTicker(cacheInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.save(ctx)
		if ctx.Err() != nil {
			return
		}
		if stop := (*position.Stop)(nil); errors.As(err, &stop) {
			g.Fatal(stop)
			return
		}
		if err != nil {
			err = c.failing(err)
		}
		g.SetDown(err)
	}
}

func (c *cacheTarget) endKeeping() {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
	c.keeping.Wait()
}

// save writes marks if anything has moved, at most one write an interval.
func (c *cacheTarget) save(ctx context.Context) error {
	c.note()
	if !c.store.Dirty() {
		return nil
	}
	if err := sleep(ctx, time.Until(c.written.Add(cacheInterval))); err != nil {
		return err
	}
	c.written = time.Now()
	c.note() // what has moved meanwhile
	return c.store.Write(ctx)
}

// note puts what the generation has come to into the store.
func (c *cacheTarget) note() {
	statements, _ := c.gen.Statements(true)
	marks := make(map[position.Key]position.Mark, len(statements))
	for _, st := range statements {
		part := &c.gen.Parts[st.Part]
		marks[part.Key(c.name)] = position.Mark{
			Next: st.Next, Sources: c.gen.SourcesOf(st.Part), Partitions: part.SourcePartitions, Pairs: st.Pairs,
		}
	}
	c.store.Put(marks)
}

// close writes the last marks.
func (c *cacheTarget) close(ctx context.Context) {
	c.endKeeping()
	if c.gen == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cacheCloseTimeout)
	defer cancel()
	c.note()
	if err := c.store.Write(ctx); err != nil {
		c.log.Warnf("The last positions were not written, and the next start repeats what was delivered since those before: %v", err)
	}
	c.gen = nil
}

// Preview implements relay.Target.
func (c *cacheTarget) Preview(ctx context.Context, q relay.Query) (*relay.Preview, error) {
	p := &relay.Preview{}
	marks, err := c.look(ctx)
	if err != nil {
		return p, err
	}
	p.Standing = c.standing(q, marks)
	marked := 0
	for _, ps := range p.Standing.Parts {
		if ps.Evidence.Mark != nil {
			marked++
		}
	}
	p.Found.Add(preflight.OK, preflight.OnTarget, "progress", "cache resource %s holds marks of %d of %d source partitions of relay %s", c.conf.resource, marked, len(p.Standing.Parts), c.name)
	return p, nil
}

// look reads the marks beside a relay that may run.
func (c *cacheTarget) look(ctx context.Context) (map[position.Key]position.Mark, error) {
	s, err := c.newStore()
	if err != nil {
		return nil, err
	}
	marks, err := s.Load(ctx)
	if err != nil {
		return nil, c.failing(err)
	}
	return marks, nil
}

// Marks implements relay.Target.
func (c *cacheTarget) Marks(ctx context.Context, s relay.Selection) ([]relay.MarkedPart, error) {
	marks, err := c.look(ctx)
	var out []relay.MarkedPart
	for k, m := range marks {
		if r, ok := s.Route(k.Source.Topic); ok {
			out = append(out, relay.MarkedPart{Source: k.Source, Route: r, Next: m.Next})
		}
	}
	relay.SortMarked(out)
	return out, err
}

// Own implements relay.Target: it has no topics.
func (c *cacheTarget) Own() []string { return nil }

// Left implements relay.Target: it closes with its input.
func (c *cacheTarget) Left() bool { return false }

// LastRecord implements relay.Target; nobody asks.
func (c *cacheTarget) LastRecord(context.Context, position.TP) (*kgo.Record, error) { return nil, nil }

// Explain implements relay.Target. There is no command that works on every
// cache. resume: start is for a Kafka target: without a mark start_offset holds
// anyway.
func (c *cacheTarget) Explain(err error, _ []position.Key) error {
	var stop *position.Stop
	if errors.As(err, &stop) && stop.Forget != nil {
		keys := cachemarks.Keys(c.name)
		stop.Cure = strings.Replace(stop.Cure, "set resume: start and ", "", 1)
		stop.Command = fmt.Sprintf("remove the keys %s and %s from cache resource %s, which forgets all topics of this relay, or give the input another `relay` name", keys[0], keys[1], c.conf.resource)
		stop.Forget = nil // said once
	}
	return err
}
