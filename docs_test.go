package kafkafailover_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// said is one text that the relay logs or returns.
type said struct{ file, text string }

// texts finds what a package logs, and the errors it makes.
func texts(t *testing.T, dir string, leaveOut ...string) []said {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	var out []said
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || slices.Contains(leaveOut, filepath.Base(name)) {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.CallExpr:
				if isSaying(x) && len(x.Args) > 0 {
					out = append(out, said{name, literal(x.Args[0])})
				}
			case *ast.KeyValueExpr:
				if fmt.Sprint(x.Key) == "Reason" {
					out = append(out, said{name, literal(x.Value)})
				}
			}
			return true
		})
	}
	return out
}

// isSaying tells whether a call logs or makes an error.
func isSaying(c *ast.CallExpr) bool {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name == "newStop"
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok && x.Name == "errors" {
			return f.Sel.Name == "New"
		}
		return slices.Contains([]string{"Info", "Infof", "Warn", "Warnf", "Error", "Errorf"}, f.Sel.Name)
	}
	return false
}

// literal is the text of an expression, as far as it stands there.
func literal(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(x.Value)
		return s
	case *ast.CallExpr:
		if len(x.Args) > 0 {
			return literal(x.Args[0])
		}
	case *ast.BinaryExpr:
		return literal(x.X) + literal(x.Y)
	}
	return ""
}

var verb = regexp.MustCompile(`%[+#]?[a-z.0-9]*[a-zA-Z]`)

// longest is the longest stretch of a format that is always there.
func longest(format string) string {
	best := ""
	for _, part := range verb.Split(format, -1) {
		if part = strings.Trim(part, " ():;,"); len(part) > len(best) {
			best = part
		}
	}
	return best
}

// Each log line and each error of a running relay stands in docs/operations.md,
// with what to do about it.
func TestOperationsPageIsComplete(t *testing.T) {
	page, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []said
	for dir, leaveOut := range map[string][]string{
		"input":                        {"config.go", "cachefields.go", "check.go"}, // lint and check say these
		"output":                       {"config.go", "preview.go"},
		"internal/pool":                nil,
		"internal/relay":               {"route.go"},
		"internal/position":            nil,
		"internal/position/progress":   nil,
		"internal/position/cachemarks": nil,
		"internal/kafka":               {"fields.go", "security.go"},
		"processor":                    nil,
	} {
		all = append(all, texts(t, dir, leaveOut...)...)
	}
	found := 0
	for _, s := range all {
		part := longest(s.text)
		if len(part) < 12 { // only carries another error
			continue
		}
		found++
		if !strings.Contains(string(page), part) {
			t.Errorf("%s says %q, and docs/operations.md does not", s.file, part)
		}
	}
	if found < 80 {
		t.Fatalf("only %d texts found: the test looks in the wrong place", found)
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)\)`)

// What the pages point to exists.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "README.md", "CONTRIBUTING.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.HasPrefix(m[1], "http") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s points to %s: %v", page, m[1], err)
			}
		}
	}
}
