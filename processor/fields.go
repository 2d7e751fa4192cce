package processor

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/tidwall/gjson"
)

// mostNested bounds what is looked at without being parsed: the engine's parser
// refuses what is nested 10,000 deep, and this one does not.
const mostNested = 9_000

// pick parses of a JSON object only the fields of these names: parsing the whole
// of it costs several times what a check costs. The rest is looked at, so that
// what the engine does not take for JSON is not taken here; then, and for all that
// is no object, it is not sure.
func pick(value []byte, fields []string) (picked map[string]any, sure bool) {
	if bytes.Count(value, []byte{'{'})+bytes.Count(value, []byte{'['}) > mostNested || !gjson.ValidBytes(value) {
		return nil, false
	}
	document := gjson.ParseBytes(value)
	if !document.IsObject() {
		return nil, false
	}
	picked, sure = make(map[string]any, len(fields)), true
	document.ForEach(func(key, v gjson.Result) bool {
		if slices.Contains(fields, key.Str) { // of several of one name the last one counts
			var ok bool
			if picked[key.Str], ok = parsed(v); !ok {
				sure = false
			}
		}
		return sure
	})
	return picked, sure
}

// parsed is a value as the engine parses it.
func parsed(v gjson.Result) (any, bool) {
	switch v.Type {
	case gjson.Null:
		return nil, true
	case gjson.True, gjson.False:
		return v.Type == gjson.True, true
	case gjson.Number:
		if numbersAsText {
			return json.Number(v.Raw), true
		}
	case gjson.String:
		if text := v.Raw[1 : len(v.Raw)-1]; strings.IndexByte(text, '\\') < 0 && utf8.ValidString(text) {
			return text, true
		}
	}
	a, err := service.NewMessage([]byte(v.Raw)).AsStructured()
	return a, err == nil
}

// numbersAsText: the engine leaves numbers as they are written, which is its
// default.
var numbersAsText = func() bool {
	a, _ := service.NewMessage([]byte("1")).AsStructured()
	_, is := a.(json.Number)
	return is
}()
