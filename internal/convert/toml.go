package convert

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// section is one TOML table. What is asked for is crossed off, so that nothing
// is left out unnoticed.
type section struct {
	path   string
	values map[string]any
	left   map[string]bool
}

// parse reads files; keys of a later one replace those of an earlier one, as
// kaf-relay merges them.
func parse(files ...[]byte) (*section, error) {
	merged := map[string]any{}
	for _, f := range files {
		var m map[string]any
		if err := toml.Unmarshal(f, &m); err != nil {
			return nil, fmt.Errorf("this is not TOML: %w", err)
		}
		merge(merged, m)
	}
	return newSection("", merged), nil
}

func merge(into, from map[string]any) {
	for k, v := range from {
		a, ok1 := into[k].(map[string]any)
		b, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			merge(a, b)
			continue
		}
		into[k] = v
	}
}

func newSection(path string, values map[string]any) *section {
	s := &section{path: path, values: values, left: map[string]bool{}}
	for k := range values {
		s.left[k] = true
	}
	return s
}

func (s *section) key(name string) string {
	if s.path == "" {
		return name
	}
	return s.path + "." + name
}

func (s *section) take(name string) (any, bool) {
	v, ok := s.values[name]
	delete(s.left, name)
	return v, ok
}

// text is a value as text, empty if it is not set.
func (s *section) text(name string) string {
	v, ok := s.take(name)
	if !ok {
		return ""
	}
	return fmt.Sprint(v)
}

func (s *section) is(name string) bool {
	v, ok := s.take(name)
	b, err := strconv.ParseBool(fmt.Sprint(v)) // "true" and 1 too, as kaf-relay reads them
	return ok && err == nil && b
}

func (s *section) list(name string) []string {
	v, _ := s.take(name)
	items, _ := v.([]any)
	var out []string
	for _, i := range items {
		out = append(out, fmt.Sprint(i))
	}
	if text, ok := v.(string); ok {
		out = strings.Split(text, ",")
	}
	return out
}

// table is a table below; empty if there is none.
func (s *section) table(name string) *section {
	v, _ := s.take(name)
	m, _ := v.(map[string]any)
	return newSection(s.key(name), m)
}

// tables are the tables of an array of tables, or the one that stands for it.
func (s *section) tables(name string) []*section {
	v, _ := s.take(name)
	switch x := v.(type) {
	case map[string]any:
		return []*section{newSection(s.key(name), x)}
	case []any:
		var out []*section
		for i, item := range x {
			if m, ok := item.(map[string]any); ok {
				out = append(out, newSection(fmt.Sprintf("%s[%d]", s.key(name), i), m))
			}
		}
		return out
	}
	return nil
}

// names are the keys in order.
func (s *section) names() []string {
	var out []string
	for k := range s.values {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// rest are the keys that nothing asked for.
func (s *section) rest() []string {
	var out []string
	for k := range s.left {
		out = append(out, s.key(k))
	}
	slices.Sort(out)
	return out
}
