package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redpanda-data/benthos/v4/public/service"
)

// Fields reads a plugin's configuration and collects what is wrong with it, so
// that parsing reads as a list of fields.
type Fields struct {
	p    *service.ParsedConfig
	errs []error
}

// NewFields reads from p.
func NewFields(p *service.ParsedConfig) *Fields { return &Fields{p: p} }

// Note adds an error found elsewhere; nil is ignored.
func (f *Fields) Note(err error) {
	if err != nil {
		f.errs = append(f.errs, err)
	}
}

// Err is the first error noted.
func (f *Fields) Err() error {
	if len(f.errs) == 0 {
		return nil
	}
	return f.errs[0]
}

// String reads a string field.
func (f *Fields) String(name string) string {
	v, err := f.p.FieldString(name)
	f.Note(err)
	return v
}

// Strings reads a list of strings.
func (f *Fields) Strings(name string) []string {
	v, err := f.p.FieldStringList(name)
	f.Note(err)
	return v
}

// Bool reads a boolean field.
func (f *Fields) Bool(name string) bool {
	v, err := f.p.FieldBool(name)
	f.Note(err)
	return v
}

// Int reads a whole number within [low, high].
func (f *Fields) Int(name string, low, high int) int {
	v, err := f.p.FieldInt(name)
	f.Note(err)
	if err == nil && (v < low || v > high) {
		f.Note(fmt.Errorf("%s must be from %d to %d, not %d", name, low, high, v))
	}
	return v
}

// Duration reads a duration of at least low.
func (f *Fields) Duration(name string, low time.Duration) time.Duration {
	v, err := f.p.FieldDuration(name)
	if err != nil {
		f.Note(fmt.Errorf("%s: %w; write a number and a unit, such as 500ms or 30s", name, err))
	} else if v < low {
		f.Note(fmt.Errorf("%s must be at least %s, not %s", name, low, v))
	}
	return v
}

// Bytes reads a size such as 1MiB within [low, high].
func (f *Fields) Bytes(name string, low, high uint64) int {
	s, err := f.p.FieldString(name)
	f.Note(err)
	n, err := humanize.ParseBytes(s)
	switch {
	case err != nil:
		f.Note(fmt.Errorf("%s: %q is not a size; write a number and a unit, such as 512KiB or 1MiB", name, s))
	case n < low || n > high:
		f.Note(fmt.Errorf("%s must be from %s to %s, not %s", name, humanize.IBytes(low), humanize.IBytes(high), s))
	}
	return int(n)
}

// Interpolated reads a string with interpolations, and whether it is set.
func (f *Fields) Interpolated(name string) (*service.InterpolatedString, bool) {
	v, err := f.p.FieldInterpolatedString(name)
	f.Note(err)
	static, ok := "", false
	if err == nil {
		static, ok = v.Static()
	}
	return v, !ok || static != ""
}

// Brokers reads a list of host:port, in which an item may hold several
// separated by commas.
func (f *Fields) Brokers(name string) []string {
	list, err := f.p.FieldStringList(name)
	f.Note(err)
	brokers, err := ParseBrokers(name, list)
	f.Note(err)
	return brokers
}

// ParseBrokers splits items at commas and checks that something is left.
func ParseBrokers(field string, items []string) ([]string, error) {
	var out []string
	for _, item := range items {
		for _, b := range strings.Split(item, ",") {
			if b = strings.TrimSpace(b); b != "" {
				out = append(out, b)
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New(field + " is empty: name at least one broker, such as [ localhost:9092 ]")
	}
	return out, nil
}

// EnumField is a field with these values. Lint tells a wrong one with the field's
// name and what to write instead.
func EnumField(name string, values ...string) *service.ConfigField {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	last := len(values) - 1
	return service.NewStringEnumField(name, values...).LintRule(fmt.Sprintf(`root = if ![%s].contains(this.string()) { [ "%s is %%s and must be %s or %s".format(this.string()) ] }`,
		strings.Join(quoted, ", "), name, strings.Join(values[:last], ", "), values[last]))
}
