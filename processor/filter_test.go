package processor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

func newFilter(t testing.TB, yaml string) *Filter {
	t.Helper()
	conf, err := Spec().ParseYAML(yaml, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(conf, service.MockResources())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func filterOf(t testing.TB, check, onError string) *Filter {
	t.Helper()
	return newFilter(t, fmt.Sprintf("name: x\ncheck: '%s'\non_error: %s\n", strings.ReplaceAll(check, "'", "''"), onError))
}

// sources of a batch: values with keys and headers.
func sourcesOf(standard bool, values ...string) []record.Source {
	shared := &record.Batch{Standard: standard, Cluster: "dc1"}
	out := make([]record.Source, len(values))
	for i, v := range values {
		out[i] = record.Source{Batch: shared, Record: &kgo.Record{
			Topic: "t", Partition: 3, Offset: int64(i), Key: fmt.Appendf(nil, "key-%d", i), Value: []byte(v), Timestamp: time.UnixMilli(1000),
			Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Appendf(nil, "%d", i)}, {Key: "null"}},
		}}
	}
	return out
}

// run asks a filter about a batch, bare or not, quick or not, and names the
// offsets it keeps and those it marks as failed.
func run(f *Filter, sources []record.Source, bare, quick bool) (kept []int64, failed map[int64]string) {
	f2 := &Filter{name: f.name, check: f.check, onError: f.onError, metrics: f.metrics, log: f.log}
	if quick {
		f2.quick = f.quick
	}
	b := &asked{f: f2}
	if bare {
		b.sources = append(b.sources, sources...)
	}
	for i := range sources {
		if !bare {
			b.batch = append(b.batch, record.NewMessage(context.Background(), &sources[i]))
		}
	}
	n := b.filter()
	failed = map[int64]string{}
	for i := range n {
		m, src := b.item(i)
		var err error
		if bare && src.Failed != nil {
			err = src.Failed.Err
		} else if !bare {
			err = m.GetError()
		}
		kept = append(kept, src.Record.Offset)
		if err != nil {
			failed[src.Record.Offset] = err.Error()
			if !errors.Is(err, record.ErrStop) {
				panic(err)
			}
		}
	}
	return kept, failed
}

// A check gives the same answers whichever way it is asked.
func TestChecks(t *testing.T) {
	values := []string{`{"a":1,"s":"x","o":{"d":true}}`, `{"a":2,"s":"y @ z"}`, `{"s":"key-2"}`, `[1,2]`, `plain`, ``}
	for check, c := range map[string]struct {
		quick  bool
		kept   []int64 // those it is true for
		failed []int64 // those it fails on
	}{
		`true`:                                         {true, []int64{0, 1, 2, 3, 4, 5}, nil},
		`meta("kafka_key") == "key-1"`:                 {true, []int64{1}, nil},
		`meta("kafka_key").has_prefix("key-")`:         {true, []int64{0, 1, 2, 3, 4, 5}, nil},
		`metadata("kafka_offset") > 3`:                 {true, []int64{4, 5}, nil},
		`meta("kafka_offset") == "4"`:                  {true, []int64{4}, nil},
		`meta("n") == "2" || metadata("null") != null`: {true, []int64{2}, nil},
		`meta("kafka_tombstone_message") == "false" && meta("kafka_source") == "dc1"`: {true, []int64{0, 1, 2, 3, 4, 5}, nil},
		`metadata("kafka_timestamp_ms") == 1000 && metadata("kafka_partition") == 3`:  {true, []int64{0, 1, 2, 3, 4, 5}, nil},
		`@n == "2"`:                        {false, []int64{2}, nil},
		`@.n == "2"`:                       {false, []int64{2}, nil},
		`content().length() == 5`:          {true, []int64{3, 4}, nil},
		`content().string().contains("@")`: {true, []int64{1}, nil},
		`this.a > 1`:                       {true, []int64{1}, []int64{2, 3, 4, 5}},
		`a.or(0) > 0`:                      {true, []int64{0, 1}, nil},
		`meta("n") == "4" || this.a == 1`:  {true, []int64{0, 4}, []int64{5}},
		`if meta("n") == "0" { this.o.d } else { false }`: {true, []int64{0}, nil},
		`meta("null") != null`:                            {true, []int64{0, 1, 2, 3, 4, 5}, nil}, // as the engine has it
		`this.s == "y @ z"`:                               {true, []int64{1}, []int64{4, 5}},
		`json("a") == 1`:                                  {false, []int64{0}, []int64{4, 5}},
		`this.s.or("") == meta("kafka_key")`:              {true, []int64{2}, nil},
		`batch_index() == 3`:                              {false, []int64{3}, nil},
		`this.s`:                                          {true, nil, []int64{0, 1, 2, 3, 4, 5}},
		`deleted()`:                                       {true, nil, []int64{0, 1, 2, 3, 4, 5}},
		`[1, 2].map_each(x -> x + 1).contains(3)`:         {true, []int64{0, 1, 2, 3, 4, 5}, nil},
		`match { meta("n").number() > 3 => true, _ => false }`: {true, []int64{4, 5}, nil},
	} {
		for _, standard := range []bool{true, false} {
			for _, bare := range []bool{true, false} {
				for _, quick := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/standard=%v/bare=%v/quick=%v", check, standard, bare, quick), func(t *testing.T) {
						f := filterOf(t, check, onErrorStop)
						if (f.quick != nil) != c.quick {
							t.Fatalf("quick: %v", f.quick != nil)
						}
						kept, failed := run(f, sourcesOf(standard, values...), bare, quick)
						var ok, bad []int64
						for _, o := range kept {
							if failed[o] != "" {
								bad = append(bad, o)
							} else {
								ok = append(ok, o)
							}
						}
						if diff := cmp.Diff([][]int64{c.kept, c.failed}, [][]int64{ok, bad}); diff != "" {
							t.Errorf("%s\n%v", diff, failed)
						}
					})
				}
			}
		}
	}
}

// What the pipeline has made of a message before counts.
func TestChangedBefore(t *testing.T) {
	for _, standard := range []bool{true, false} {
		for _, check := range []string{`meta("kafka_key") == "new" && content() == "v" && meta("own") == "1"`, `@kafka_key == "new" && content() == "v" && @own == "1"`} {
			f := filterOf(t, check, onErrorStop)
			src := sourcesOf(standard, `{}`)
			m := record.NewMessage(context.Background(), &src[0])
			m.MetaSetMut("kafka_key", "new")
			m.MetaSetMut("own", "1")
			m.SetBytes([]byte("v"))
			if out, err := f.ProcessBatch(context.Background(), service.MessageBatch{m}); err != nil || len(out) != 1 || out[0][0].GetError() != nil {
				t.Errorf("%s, standard %v: %v, %v", check, standard, out, err)
			}
		}
	}
	f := filterOf(t, `meta("n") == null`, onErrorStop)
	src := sourcesOf(true, `{}`)
	m := record.NewMessage(context.Background(), &src[0])
	m.MetaDelete("n")
	if out, _ := f.ProcessBatch(context.Background(), service.MessageBatch{m}); len(out) != 1 {
		t.Error("metadata that was deleted came back")
	}
}

func TestOnError(t *testing.T) {
	for onError, want := range map[string]int{onErrorStop: 2, onErrorKeep: 2, onErrorDrop: 1} {
		f := filterOf(t, `this.a == 1`, onError)
		kept, failed := run(f, sourcesOf(true, `{"a":1}`, `{"a":2}`, `not JSON`), false, true)
		if len(kept) != want || (len(failed) == 1) != (onError == onErrorStop) {
			t.Errorf("%s: kept %v, failed %v", onError, kept, failed)
		}
		if onError == onErrorStop && !strings.Contains(failed[2], `filter "x" failed`) {
			t.Errorf("%v", failed)
		}
	}
}

// A message on which something failed before is not asked about.
func TestFailedBefore(t *testing.T) {
	f := filterOf(t, `false`, onErrorDrop)
	src := sourcesOf(true, `{}`)
	m := record.NewMessage(context.Background(), &src[0])
	m.SetError(errors.New("before"))
	if out, _ := f.ProcessBatch(context.Background(), service.MessageBatch{m}); len(out) != 1 {
		t.Fatal("a message on which a processor failed was filtered")
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"''", "loop", "on_error", "dead_letter", "pipeline"} {
		conf, err := Spec().ParseYAML("name: "+name+"\ncheck: 'true'\n", nil)
		if err != nil {
			continue // lint
		}
		if _, err := New(conf, service.MockResources()); err == nil {
			t.Errorf("the name %s is taken", name)
		}
	}
}

func TestNeedsOf(t *testing.T) {
	for check, want := range map[string]struct{ document, more bool }{
		`meta("a") == "this.b @ json("`:      {},
		`meta(this.a) == "b"`:                {true, true},
		`currency == "INR"`:                  {true, false},
		`if currency == 1 { true }`:          {true, false},
		`random_int() > 5`:                   {},
		`$x == 1.5e3`:                        {},
		"meta(\"a\") == \"\"\"@\n\"\"\" # @": {},
		`import "x"`:                         {true, true},
		`this.apply("x")`:                    {true, true},
		`metadata().a == 1`:                  {false, true},
	} {
		if n := needsOf(check); n.more != want.more || (n.whole || len(n.fields) > 0) != want.document {
			t.Errorf("%s: %+v", check, n)
		}
	}
}

// A batch of one filter: what the records cost it.
func BenchmarkFilter(b *testing.B) {
	values := make([]string, 500)
	for i := range values {
		values[i] = fmt.Sprintf(`{"n":%d,"currency":"INR","pad":%q}`, i, strings.Repeat("abcdefgh", 20))
	}
	for name, check := range map[string]string{
		"key": `meta("kafka_key").has_prefix("key-")`, "header": `meta("n") != "x"`, "json": `this.currency == "INR"`, "at": `@n != "x"`,
	} {
		for _, bare := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/bare=%v", name, bare), func(b *testing.B) {
				f := filterOf(b, check, onErrorStop)
				sources := sourcesOf(false, values...)
				for range b.N {
					if kept, _ := run(f, sources, bare, true); len(kept) != len(values) {
						b.Fatal(len(kept))
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(values)), "ns/record")
			})
		}
	}
}

// An output that is not ours would write a message that is only marked as failed.
func TestOnErrorStopAlone(t *testing.T) {
	hub := &relay.Hub{}
	g := relay.NewGeneration(hub.AnnounceInput(false), nil, relay.Plan{
		Standing:    &relay.Standing{Parts: []relay.PartStanding{{Part: relay.Part{Source: position.TP{Topic: "t"}}}}},
		Starts:      []position.PartStart{{}},
		WindowBytes: 1000, Alone: &relay.Alone{MaxInFlight: 1},
	})
	ticket, err := g.Issue(context.Background(), relay.Load{Records: 2}, []relay.Span{{Next: 2}})
	if err != nil {
		t.Fatal(err)
	}
	var batch service.MessageBatch
	for _, value := range []string{`{"a":1}`, `{}`} {
		batch = append(batch, service.NewMessageWithContext(relay.WithTicket(context.Background(), ticket), []byte(value)))
	}
	out, err := filterOf(t, `this.a.not_null() == 1`, "stop").ProcessBatch(context.Background(), batch)
	if err != nil || len(out) != 1 || len(out[0]) != 1 {
		t.Fatalf("%v, %v", out, err)
	}
	ticket.Ack(nil)
	if next := g.Positions()[position.TP{Topic: "t"}]; next != 0 {
		t.Errorf("the position is %d, behind the record", next)
	}
	if err := hub.Fatal(); err == nil || !strings.Contains(err.Error(), `filter "x" failed`) {
		t.Errorf("the relay goes on: %v", err)
	}
}
