package processor

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redpanda-data/benthos/v4/public/service"
	"pgregory.net/rapid"
)

// What is picked out of a document is what the engine finds there; and what the
// engine does not take for JSON is never picked from.
func TestPickAgreesWithTheEngine(t *testing.T) {
	fields := []string{"a", "b", "n"}
	agrees := func(t rapid.TB, text string) {
		picked, sure := pick([]byte(text), fields)
		whole, err := service.NewMessage([]byte(text)).AsStructured()
		object, is := whole.(map[string]any)
		if !sure {
			return
		}
		if err != nil || !is {
			t.Fatalf("%q: picked %v, and the engine says %v, %v", text, picked, whole, err)
		}
		want := map[string]any{}
		for _, f := range fields {
			if v, ok := object[f]; ok {
				want[f] = v
			}
		}
		if diff := cmp.Diff(want, picked); diff != "" {
			t.Fatalf("%q: %s", text, diff)
		}
	}
	for _, text := range []string{
		`{}`, ` {"a":1} `, `{"a":1}{"a":2}`, `{"a":1}x`, `{"a":1,"a":"x"}`, `{"\u0061":2}`, `{"a":"\u00e9\n"}`, `{"a":"` + "\xff" + `"}`, `{"a":1e999}`, `{"a":-0.0}`, `{"a":01}`,
		`{"a":[1,{"b":2}],"b":{"a":null}}`, `{"a":true,"b":false,"n":null}`, `{"a":"` + "\t" + `"}`, `{"a":1,}`, `[1]`, `null`, ``, `{"a":"\ud800"}`, `{"x":NaN}`, `{"x":"\q"}`, `{'a':1}`, "\ufeff{}",
		`{"a":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}`,
	} {
		agrees(t, text)
	}
	var value *rapid.Generator[string]
	value = rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 7).Draw(t, "kind") {
		case 0:
			return rapid.SampledFrom([]string{"null", "true", "false", "1", "-2.5e3", "0", "1E+2"}).Draw(t, "plain")
		case 1, 2, 3:
			return fmt.Sprintf("%q", rapid.StringN(0, 5, 10).Draw(t, "text"))
		case 4:
			return "[" + strings.Join(rapid.SliceOfN(rapid.Deferred(func() *rapid.Generator[string] { return value }), 0, 2).Draw(t, "items"), ",") + "]"
		}
		var parts []string
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			key := rapid.SampledFrom([]string{"a", "b", "n", "x", `\u0061`, ""}).Draw(t, "key")
			parts = append(parts, fmt.Sprintf(`"%s": %s`, key, rapid.Deferred(func() *rapid.Generator[string] { return value }).Draw(t, "v")))
		}
		return "{" + strings.Join(parts, " ,") + "}"
	})
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(value.Draw(t, "document"))
		if len(text) > 0 && rapid.Bool().Draw(t, "spoil") { // one byte is another, or is gone
			i := rapid.IntRange(0, len(text)-1).Draw(t, "at")
			if rapid.Bool().Draw(t, "cut") {
				text = append(text[:i], text[i+1:]...)
			} else {
				text[i] = rapid.Byte().Draw(t, "byte")
			}
		}
		agrees(t, string(text))
	})
}

// What is picked is found at all.
func TestPickIsSure(t *testing.T) {
	for _, text := range []string{`{"a":1,"x":[{"a":2}]}`, `{"x":"\\\"}","a":"y"}`, `{}`} {
		if _, sure := pick([]byte(text), []string{"a"}); !sure {
			t.Errorf("%s: not sure", text)
		}
	}
}

// Of a check it is known which fields of the document it may look at.
func TestFieldsOf(t *testing.T) {
	for check, want := range map[string]string{
		`this.currency == "INR"`:                                   "[currency]",
		`currency == "INR" && this.account.name != "x"`:            "[account currency]",
		`meta("n") == "1"`:                                         "[]",
		`this.items.any(this.price > 3)`:                           "[items price]",
		`items.any(i -> i.price > 3)`:                              "[i items]",
		`this.exists("a")`:                                         "whole",
		`this == null`:                                             "whole",
		`this.(a | b) == 1`:                                        "whole",
		`this."a b" == 1`:                                          "whole",
		`[ this ].length() > 0`:                                    "whole",
		`this.a.or(this.b).string().re_match("this.c") # this.d`:   "[a b]",
		`if this.a == 1 { b } else { true }`:                       "[a b else if]",
		`match { this.a == 1 => true, _ => false }`:                "[_ a match]",
		`match.id == 3 && else == 1 && if.x`:                       "[else if match]",
		`root == 1`:                                                "whole",
		`match this { this.a == 1 => true }`:                       "whole",
		`this.a.map_each(x -> x.b).contains(this.keys().index(0))`: "whole",
		`(this).a == 1`:                                            "whole",
		`this .a == 1`:                                             "whole",
		"this.a.\nfoo == 1":                                        "[a foo]",
	} {
		n := needsOf(check)
		got := fmt.Sprint(n.fields)
		if n.whole {
			got = "whole"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", check, got, want)
		}
	}
}
