// Package relay joins an input to its output: who belongs to whom, which topic
// goes where, in which order batches are written, how much may be under way,
// and what is fatal.
package relay

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Mode is how a route chooses the target partition.
type Mode int

// The modes of a Route.
const (
	// SamePartition keeps the source's partition number.
	SamePartition Mode = iota
	// FixedPartition writes everything into Route.Partition.
	FixedPartition
	// ByKey hashes the key as Kafka's default partitioner does (murmur2).
	// Records without a key keep their source partition's order: they go to
	// the source partition's number modulo the target's partition count.
	ByKey
)

// Route says where the records of one source topic go.
type Route struct {
	Source, Target string
	Mode           Mode
	Partition      int32 // of FixedPartition
}

// String is the route as the field `topics` spells it.
func (r Route) String() string {
	switch {
	case r.Mode == ByKey:
		return r.Source + ":" + r.Target + ":auto"
	case r.Mode == FixedPartition:
		return fmt.Sprintf("%s:%s:%d", r.Source, r.Target, r.Partition)
	case r.Source != r.Target:
		return r.Source + ":" + r.Target
	}
	return r.Source
}

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// ParseRoutes reads the field `topics`: source[:target[:partition|auto]], each
// source topic once.
func ParseRoutes(specs []string) ([]Route, error) {
	if len(specs) == 0 {
		return nil, fmt.Errorf("topics is empty: name at least one topic, such as [ orders ]")
	}
	routes := make([]Route, 0, len(specs))
	seen := map[string]bool{}
	for _, spec := range specs {
		r, err := parseRoute(spec)
		if err != nil {
			return nil, err
		}
		if seen[r.Source] {
			return nil, fmt.Errorf("topics lists source topic %q twice: each source topic has one route", r.Source)
		}
		seen[r.Source] = true
		routes = append(routes, r)
	}
	return routes, nil
}

func parseRoute(spec string) (Route, error) {
	f := strings.Split(spec, ":")
	if len(f) > 3 {
		return Route{}, fmt.Errorf("topics: %q has too many parts: write source, source:target, source:target:partition or source:target:auto", spec)
	}
	r := Route{Source: f[0], Target: f[0]}
	if len(f) > 1 {
		r.Target = f[1]
	}
	for _, name := range []string{r.Source, r.Target} {
		if !topicName.MatchString(name) || name == "." || name == ".." {
			return Route{}, fmt.Errorf("topics: %q in %q is not a topic name: letters, digits, '.', '_' and '-', at most 249", name, spec)
		}
	}
	if len(f) < 3 {
		return r, nil
	}
	if f[2] == "auto" {
		r.Mode = ByKey
		return r, nil
	}
	p, err := strconv.ParseInt(f[2], 10, 32)
	if err != nil || p < 0 {
		return Route{}, fmt.Errorf("topics: %q in %q is neither a partition number nor auto", f[2], spec)
	}
	r.Mode, r.Partition = FixedPartition, int32(p)
	return r, nil
}

// ParsePatterns reads the field `regexp_topics_include`: regular expressions of
// Go's syntax (RE2), each to match a whole name.
func ParsePatterns(specs []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, spec := range specs {
		if _, err := regexp.Compile(spec); err != nil {
			return nil, fmt.Errorf("regexp_topics_include: %q is not a regular expression: %w", spec, err)
		}
		out = append(out, regexp.MustCompile(`^(?:`+spec+`)$`))
	}
	return out, nil
}
