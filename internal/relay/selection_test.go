package relay

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
)

func TestSelection(t *testing.T) {
	there := func(names ...string) (out []kafka.ListedTopic) {
		for _, n := range names {
			out = append(out, kafka.ListedTopic{Name: n, Usable: true})
		}
		return out
	}
	for name, c := range map[string]struct {
		listed   []string
		patterns []string
		own      []string
		before   []string
		topics   []kafka.ListedTopic
		want     string
	}{
		"listed alone":              {[]string{"a", "b:c"}, nil, nil, nil, there("a", "x"), "[a b:c]"},
		"whole names":               {nil, []string{"orders"}, nil, nil, there("orders", "orders2", "my_orders"), "[orders]"},
		"alternatives, whole names": {nil, []string{"a|b"}, nil, nil, there("a", "b", "ab", "xa"), "[a b]"},
		"several, sorted, once":     {nil, []string{"b.*", "a.*", "ba"}, nil, nil, there("ba", "ab", "b", "c"), "[ab b ba]"},
		"listed ones win":           {[]string{"a:x:auto"}, []string{".*"}, nil, nil, there("a", "b"), "[a:x:auto b]"},
		"listed, though not there":  {[]string{"z"}, []string{"a"}, nil, nil, there("a"), "[z a]"},
		"never internal ones": {nil, []string{".*"}, nil, nil, append(there("__consumer_offsets", "__x", "_schemas", "a"),
			kafka.ListedTopic{Name: "inner", Internal: true, Usable: true}), "[_schemas a]"},
		"never progress or dead letters":  {nil, []string{".*"}, []string{"mine", "dead"}, nil, there("mine", "dead", "kafka_failover_progress", "a"), "[a]"},
		"an internal one that is listed":  {[]string{"__x"}, []string{".*"}, nil, nil, there("__x"), "[__x]"},
		"a new one without leaders waits": {nil, []string{".*"}, nil, []string{"b"}, []kafka.ListedTopic{{Name: "a"}, {Name: "b"}}, "[b]"},
		"none":                            {nil, []string{"a"}, nil, nil, there("b"), "[]"},
	} {
		s := Selection{Own: c.own}
		var err error
		if s.Patterns, err = ParsePatterns(c.patterns); err != nil {
			t.Fatal(err)
		}
		if len(c.listed) > 0 {
			if s.Listed, err = ParseRoutes(c.listed); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(c.want, fmt.Sprint(s.Routes(c.topics, c.before))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := ParsePatterns([]string{"a", "(b"}); err == nil {
		t.Error("a regular expression that is none passes")
	}
}
