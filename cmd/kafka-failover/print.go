package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/mattn/go-isatty"
)

// stdout is where reports go; logs and progress go to stderr.
var stdout io.Writer = os.Stdout

// mostRows bounds what a table shows of many partitions.
const mostRows = 64

// newTable is a table as all commands print it.
func newTable(header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(stdout)
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true, SeparateFooter: true}
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(header)
	return t
}

// lastColumn wraps the text of column n, counted from 1.
func lastColumn(n int) []table.ColumnConfig {
	return []table.ColumnConfig{{Number: n, WidthMax: 100, WidthMaxEnforcer: text.WrapSoft}}
}

// say prints to stdout; a reader that has gone away is not told.
func say(format string, args ...any) { _, _ = fmt.Fprintf(stdout, format, args...) }

func printJSON(v any) error {
	e := json.NewEncoder(stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
