package relay

import (
	"regexp"
	"slices"
	"strings"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
)

// Selection says which topics of a source are relayed: those that are listed,
// and those whose whole name a regular expression matches, under their own names.
type Selection struct {
	Listed   []Route
	Patterns []*regexp.Regexp
	// Own are topics of the relay itself, which are never matched.
	Own []string
}

// ProgressTopic is what a relay calls its progress topic if it is told nothing
// else.
const ProgressTopic = "kafka_failover_progress"

// Route is the route of a source topic, if it has one. A listed topic goes where
// its list says, whatever matches it.
func (s Selection) Route(topic string) (Route, bool) {
	for _, r := range s.Listed {
		if r.Source == topic {
			return r, true
		}
	}
	return Route{Source: topic, Target: topic}, s.matches(topic)
}

func (s Selection) matches(topic string) bool {
	if strings.HasPrefix(topic, "__") || topic == ProgressTopic || slices.Contains(s.Own, topic) {
		return false
	}
	return slices.ContainsFunc(s.Patterns, func(p *regexp.Regexp) bool { return p.MatchString(topic) })
}

// Routes are the listed ones, whether their topics are there or not, and behind
// them, by name, those of the topics that match. A topic that was not relayed
// before counts once all its partitions can be read.
func (s Selection) Routes(topics []kafka.ListedTopic, before []string) []Route {
	routes := slices.Clone(s.Listed)
	matched := []string{}
	for _, t := range topics {
		if s.Matched(t.Name) && !t.Internal && (t.Usable || slices.Contains(before, t.Name)) {
			matched = append(matched, t.Name)
		}
	}
	slices.Sort(matched)
	for _, name := range matched {
		routes = append(routes, Route{Source: name, Target: name})
	}
	return routes
}

// Matched tells whether a topic is relayed, and not because it is listed.
func (s Selection) Matched(topic string) bool {
	return s.matches(topic) && !slices.ContainsFunc(s.Listed, func(r Route) bool { return r.Source == topic })
}
