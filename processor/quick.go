package processor

import (
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/redpanda-data/benthos/v4/public/bloblang"
	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/internal/record"
)

// quick asks a check without making a message with metadata for it, which costs
// several times what the check does: meta, metadata and content are functions of
// its own that look at the record. One goroutine at a time has it.
type quick struct {
	exec  *bloblang.Executor
	needs needs
	// The message the check is asked about, nil if its ticket carries the source
	// alone, and its source.
	message *service.Message
	source  *record.Source
}

// newQuick returns a pool of quick ones; nil if the check asks for anything
// else of a message than its value and named metadata.
func newQuick(check string) *sync.Pool {
	n := needsOf(check)
	if n.more {
		return nil
	}
	parse := func() (*quick, error) {
		q := &quick{needs: n}
		env := bloblang.GlobalEnvironment().Clone()
		if err := q.register(env); err != nil {
			return nil, err
		}
		var err error
		q.exec, err = env.Parse(check)
		return q, err
	}
	q, err := parse()
	if err != nil {
		return nil
	}
	pool := &sync.Pool{New: func() any {
		q, err := parse()
		if err != nil {
			panic(err) // it did parse before
		}
		return q
	}}
	pool.Put(q)
	return pool
}

func (q *quick) register(env *bloblang.Environment) error {
	key := bloblang.NewPluginSpec().Param(bloblang.NewStringParam("key"))
	named := func(get func(string) (any, error)) bloblang.FunctionConstructorV2 {
		return func(args *bloblang.ParsedParams) (bloblang.Function, error) {
			name, err := args.GetString("key")
			return func() (any, error) { return get(name) }, err
		}
	}
	if err := env.RegisterFunctionV2("meta", key, named(q.metaText)); err != nil {
		return err
	}
	if err := env.RegisterFunctionV2("metadata", key, named(q.meta)); err != nil {
		return err
	}
	return env.RegisterFunctionV2("content", bloblang.NewPluginSpec(), func(*bloblang.ParsedParams) (bloblang.Function, error) {
		return func() (any, error) {
			if q.message == nil {
				return q.source.Record.Value, nil
			}
			return q.message.AsBytes()
		}, nil
	})
}

// find returns the metadata entry of a name, as the input would set it.
func (q *quick) find(name string) (value any, ok bool) {
	if q.message != nil {
		if v, ok := q.message.MetaGetMut(name); ok {
			return v, true
		}
		if q.source == nil || q.source.Batch.Standard {
			return nil, false // deleted
		}
	}
	return q.source.Metadata(name)
}

// meta is the function metadata: an entry, or null.
func (q *quick) meta(name string) (any, error) {
	v, _ := q.find(name)
	return v, nil
}

// metaText is the function meta: an entry as a string, or null.
func (q *quick) metaText(name string) (any, error) {
	v, ok := q.find(name)
	if !ok {
		return nil, nil
	}
	switch x := v.(type) {
	case string:
		return x, nil
	case []byte:
		return string(x), nil
	}
	m := service.NewMessage(nil) // the engine knows how it writes it
	m.MetaSetMut(name, v)
	s, _ := m.MetaGet(name)
	return s, nil
}

// ask puts the check to a message. It is not sure of one whose value is not
// what the check needs: then the engine is to say what that means.
func (q *quick) ask(m *service.Message, src *record.Source) (keep, sure bool, err error) {
	q.message, q.source = m, src
	defer func() { q.message, q.source = nil, nil }()
	this, err := q.this()
	if err != nil {
		return false, false, nil
	}
	v, err := q.exec.Query(this)
	if err != nil {
		return false, true, err
	}
	keep, err = isTrue(v)
	return keep, true, err
}

// this is the document, as far as the check may look at it.
func (q *quick) this() (any, error) {
	switch {
	case !q.needs.whole && len(q.needs.fields) == 0:
		return nil, nil
	case q.message != nil: // others may need the document too
		return q.message.AsStructured()
	case !q.needs.whole:
		if fields, sure := pick(q.source.Record.Value, q.needs.fields); sure {
			return fields, nil
		}
	}
	// Kept in a message the document would fill the window.
	return service.NewMessage(q.source.Record.Value).AsStructured()
}

// needs is what a check asks for.
type needs struct {
	// fields of the value, a JSON object; more than it looks at, maybe.
	fields []string
	whole  bool // all of the value, as JSON
	more   bool // something that quick does not know
}

var (
	// literals are strings and comments.
	literals = regexp.MustCompile(`(?s)"""(.*?)"""|"(\\.|[^"\\])*"|#[^\n]*`)
	// known are the calls that quick answers; literals are \x00 by then.
	known = regexp.MustCompile("\\b(meta|metadata)\\(\\s*\x00\\s*\\)|\\bcontent\\(\\s*\\)")
	// beyond is what depends on more than one message, or on the engine's own
	// state of it.
	beyond = regexp.MustCompile(`@|\b(meta|metadata|root_meta|content|json|from|from_all|import|map|apply|error|errored|error_source_\w+|batch_index|batch_size|tracing_id|tracing_span|count|counter)\b`)
	names  = regexp.MustCompile(`[.$\w]*\w`)
	// words can be nothing else. Where they are fields of the document too (if, else,
	// match), to pick one more costs nothing.
	words = map[string]bool{"true": true, "false": true, "null": true}
)

// needsOf reads off a check what it asks for; when in doubt, more.
func needsOf(check string) needs {
	text := literals.ReplaceAllStringFunc(check, func(s string) string {
		if strings.HasPrefix(s, "#") {
			return ""
		}
		return "\x00"
	})
	text = known.ReplaceAllString(text, "\x00")
	n := needs{more: beyond.MatchString(text)}
	for _, at := range names.FindAllStringIndex(text, -1) {
		n.note(text[at[0]:at[1]], text[at[1]:])
	}
	slices.Sort(n.fields)
	n.fields = slices.Compact(n.fields)
	return n
}

// note adds what a name stands for: all but methods, functions, variables, numbers
// and the words of the language are parts of the document.
func (n *needs) note(name, behind string) {
	path := strings.Split(name, ".")
	call := strings.HasPrefix(strings.TrimLeft(behind, " \t"), "(")
	first := path[0]
	switch {
	case first == "" || first[0] == '$' || (first[0] >= '0' && first[0] <= '9') || (len(path) == 1 && words[first]):
	case first == "root", first == "this" && (len(path) == 1 || len(path) == 2 && call):
		n.whole = true
	case first == "this":
		n.fields = append(n.fields, path[1])
	case len(path) > 1 || !call:
		n.fields = append(n.fields, first)
	}
}
