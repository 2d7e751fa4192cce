package input

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// What regexp_topics_include matches is found on the source that is to be read
// when a generation begins, and looked for there while it is read. Which topics a
// generation has does not change: where they do, it ends in good order and the
// next one begins with the others.

var (
	// errAppeared ends reading when there are topics that match and are not
	// relayed yet.
	errAppeared = errors.New("source topics have appeared that regexp_topics_include matches")
	// errGone says that routes have ended: their topics are gone from every source.
	errGone = errors.New("source topics that regexp_topics_include matched are gone from every source")
	// errNoMatch: there is nothing to relay, yet.
	errNoMatch = errors.New("no topic matches regexp_topics_include yet")
)

// regroups tells whether reading ended so that the next generation begins with
// other topics or partitions.
func regroups(cause error) bool {
	return errors.Is(cause, errGrown) || errors.Is(cause, errAppeared) || errors.Is(cause, errGone)
}

// with is the configuration with these routes.
func (c config) with(routes []relay.Route) config {
	c.routes = routes
	return c
}

// selection is what is relayed, as far as the configuration says.
func (c config) selection(target relay.Target) relay.Selection {
	s := relay.Selection{Listed: c.routes, Patterns: c.patterns}
	if len(c.patterns) > 0 {
		s.Own = target.Own()
	}
	return s
}

// relayed is the configuration with the routes of the present generation.
func (in *Input) relayed() config {
	if len(in.conf.patterns) == 0 {
		return in.conf
	}
	return in.conf.with(in.routes)
}

// selected is the configuration with the routes of what is to be read on source
// i: those of the generation, if there is one, else what is found there.
func (in *Input) selected(ctx context.Context, i int) (config, error) {
	if len(in.conf.patterns) == 0 || in.gen != nil || in.stopAt != nil { // which says what there is to relay
		return in.relayed(), nil
	}
	target, err := in.target(ctx)
	if err != nil {
		return in.conf, &position.Stop{Reason: err.Error()}
	}
	in.selection = in.conf.selection(target)
	before, err := in.matchedBefore(ctx, target)
	if err != nil {
		return in.conf, err
	}
	if in.routes == nil {
		in.before = before
	}
	routes, gone, err := in.conf.find(ctx, in.selection, in.pool.Conn(i), before, in.routes != nil || in.conf.stopAtEnd)
	if err != nil {
		return in.conf, askError{err}
	}
	if len(routes) == 0 && in.conf.stopAtEnd {
		return in.conf, &position.Stop{Reason: errNoMatch.Error() + " on source " + in.conf.sources[i].Name, Cure: "correct it, or create a topic: with stop_at_end there is nothing to wait for"}
	}
	if len(routes) == 0 {
		return in.conf, errNoMatch
	}
	in.noteRoutes(routes, gone)
	return in.relayed(), nil
}

// appeared tells whether a topic matches that was not relayed before, while others
// that match were, as the marks say: it has appeared since.
func (in *Input) appeared(topic string) bool {
	return len(in.before) > 0 && in.selection.Matched(topic) && !slices.Contains(in.before, topic)
}

// matchedBefore are the topics that were relayed because they matched: by this
// process, or else by one before, as the marks say.
func (in *Input) matchedBefore(ctx context.Context, target relay.Target) ([]string, error) {
	if in.routes != nil {
		return matchedOf(in.selection, in.routes), nil
	}
	return in.conf.markedBefore(ctx, target, in.selection)
}

func matchedOf(s relay.Selection, routes []relay.Route) []string {
	var out []string
	for _, r := range routes {
		if s.Matched(r.Source) {
			out = append(out, r.Source)
		}
	}
	return out
}

func (c config) markedBefore(ctx context.Context, target relay.Target, s relay.Selection) ([]string, error) {
	if c.resume == position.ResumeWatermark { // there are none
		return nil, nil
	}
	marks, err := target.Marks(ctx, s)
	var out []string
	for _, m := range marks {
		if name := m.Source.Topic; s.Matched(name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, err
}

// find returns the routes of what is relayed as the source at conn has it. A
// topic that was relayed before and is not there keeps its route if another
// source has it, or might have it where that is to be waited for: then this source
// lacks it. gone are the others.
func (c config) find(ctx context.Context, s relay.Selection, conn kafka.Conn, before []string, wait bool) (routes []relay.Route, gone []string, err error) {
	topics, err := listTopics(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	routes = s.Routes(topics, before)
	if len(routes) == 0 && len(before) == 0 { // then those count that others have, and this source lacks them
		there, _ := c.elsewhere(ctx, conn.Name)
		for _, name := range slices.Sorted(maps.Keys(there)) {
			if s.Matched(name) {
				routes = append(routes, relay.Route{Source: name, Target: name})
			}
		}
	}
	lacks := lacking(routes, before)
	if len(lacks) == 0 {
		return routes, nil, nil
	}
	elsewhere, all := c.elsewhere(ctx, conn.Name)
	for _, name := range lacks {
		if elsewhere[name] || (wait && !all) {
			routes = append(routes, relay.Route{Source: name, Target: name})
		} else {
			gone = append(gone, name)
		}
	}
	return routes, gone, nil
}

// lacking are those of the topics that no route begins at.
func lacking(routes []relay.Route, topics []string) []string {
	var out []string
	for _, name := range topics {
		if !slices.ContainsFunc(routes, func(r relay.Route) bool { return r.Source == name }) {
			out = append(out, name)
		}
	}
	return out
}

// elsewhere are the topics of all sources but the one of that name, and whether
// each of them answered.
func (c config) elsewhere(ctx context.Context, but string) (topics map[string]bool, all bool) {
	topics, all = map[string]bool{}, true
	for _, conn := range c.sources {
		if conn.Name == but {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, c.lookTimeout())
		list, err := listTopics(ctx, conn)
		cancel()
		all = all && err == nil
		for _, t := range list {
			topics[t.Name] = true
		}
	}
	return topics, all
}

func listTopics(ctx context.Context, conn kafka.Conn) ([]kafka.ListedTopic, error) {
	c, err := conn.Admin()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ListTopics(ctx)
}

// noteRoutes takes the routes over and says what is new.
func (in *Input) noteRoutes(routes []relay.Route, gone []string) {
	var had []string
	for _, r := range in.routes {
		had = append(had, r.Source)
	}
	now := matchedOf(in.selection, routes)
	if in.routes == nil {
		in.log.Infof("Relaying %d source topics that regexp_topics_include matches: %s", len(now), listed(now))
		if len(gone) > 0 {
			in.log.Infof("%d source topics that were relayed before are on no source that answers, and are not waited for: %s", len(gone), listed(gone))
		}
	} else {
		for _, name := range now {
			if !slices.Contains(had, name) {
				in.log.With("topic", name).Infof("Source topic %s has appeared and matches regexp_topics_include: it is relayed from offset 0", name)
			}
		}
		in.noteGone(gone)
	}
	in.take(routes, gone)
}

// take goes over to other routes. What was shown of topics that are gone is
// nothing from now on.
func (in *Input) take(routes []relay.Route, gone []string) {
	in.routes = routes
	in.pool.SetTopics(in.relayed().topicNames())
	if f := in.gauges.followed.Load(); f != nil {
		for i, p := range f.gen.Parts {
			if slices.Contains(gone, p.Source.Topic) {
				in.metrics.Behind(f.paths[i], 0, 0)
			}
		}
	}
}

func (in *Input) noteGone(topics []string) {
	for _, name := range topics {
		in.log.With("topic", name).Warnf("Source topic %s, which regexp_topics_include matched, is gone from every source: its route ends", name)
	}
}

// gone looks, where every source lacks a topic, whether all that is missing was
// matched and is missing everywhere: then those routes end. The error is errGone
// in that case, else the stop.
func (in *Input) gone(ctx context.Context) error {
	if len(in.conf.patterns) == 0 || in.routes == nil {
		return in.hopeless()
	}
	there, all := in.conf.elsewhere(ctx, "")
	if !all { // one may have it; Connect is to rest before it asks again
		return errors.New(in.noSource().Error())
	}
	var lost []string
	for _, r := range in.routes {
		if !there[r.Source] {
			lost = append(lost, r.Source)
		}
	}
	if len(lost) == 0 || len(matchedOf(in.selection, in.routes)) == 0 || slices.ContainsFunc(lost, func(name string) bool { return !in.selection.Matched(name) }) {
		return in.hopeless()
	}
	in.noteGone(lost)
	in.take(slices.DeleteFunc(slices.Clone(in.routes), func(r relay.Route) bool { return slices.Contains(lost, r.Source) }), lost)
	return fmt.Errorf("%w: %s", errGone, strings.Join(lost, ", "))
}

// lookForTopics ends reading when the source has topics that match and are not
// relayed yet.
func (r *reader) lookForTopics(ctx context.Context) {
	tick := time.NewTicker(r.source.conn.MetadataMaxAge)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		topics, err := r.source.cluster.ListTopics(ctx)
		if err != nil { // a source that does not answer is somebody else's to notice
			continue
		}
		for _, route := range r.selection.Routes(topics, nil) {
			if _, ok := r.index[route.Source]; !ok && r.selection.Matched(route.Source) {
				r.fail(errAppeared)
				return
			}
		}
	}
}

// Routes are the listed ones, and those of the topics that match on the first
// source that answers; with an error the listed ones alone.
func (in *Input) Routes(ctx context.Context, target relay.Target) ([]relay.Route, error) {
	if len(in.conf.patterns) == 0 {
		return in.conf.routes, nil
	}
	s := in.conf.selection(target)
	before, markErr := in.conf.markedBefore(ctx, target, s) // what is the matter with the target is found elsewhere too
	var errs []error
	for _, conn := range in.conf.sources {
		ctx, cancel := context.WithTimeout(ctx, in.conf.lookTimeout())
		routes, _, err := in.conf.find(ctx, s, conn, before, false)
		cancel()
		switch {
		case err != nil:
			errs = append(errs, err)
		case len(routes) == 0:
			return nil, errNoMatch
		default:
			return routes, nil
		}
	}
	return in.conf.routes, errors.Join(append(errs, markErr)...)
}
