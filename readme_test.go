package kafkafailover_test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// blocks are the fenced blocks of a language in a page.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatalf("%s holds no %s", page, language)
	}
	return out
}

// readmeCommands are the commands the README shows, without comments.
func readmeCommands(t *testing.T) []string {
	var out []string
	for _, block := range blocks(t, "README.md", "sh") {
		for line := range strings.Lines(block) {
			if line, _, _ = strings.Cut(line, " #"); strings.TrimSpace(line) != "" {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	return out
}

// Every command of the README does what it is there for. Those that relay find
// the clusters under the names that their variables have.
func TestReadmeCommands(t *testing.T) {
	w := &world{t: t}
	fakes := map[string]string{} // the commands are at stake here, not the clusters
	for _, name := range []string{"dc1", "dc2", "target", "target_exactly_once", "target_filtered"} {
		f := kafkatest.Fake(t, name, kfake.SeedTopics(2, "orders"))
		fakes[name] = strings.Join(f.ListenAddrs(), ",")
		if !strings.HasPrefix(name, "target") {
			produceTo(t, fakes[name], 500, func(i int) *kgo.Record { // what every filter keeps
				return &kgo.Record{Topic: "orders", Partition: int32(i % 2), Key: fmt.Appendf(nil, "eu-%d", i), Value: []byte(`{"currency":"INR"}`)}
			})
		}
	}
	db := startRedis(t)
	brokers := map[string]string{"SOURCE_BROKERS": fakes["dc1"], "DC1_BROKERS": fakes["dc1"], "DC2_BROKERS": fakes["dc2"], "TARGET_BROKERS": fakes["target"], "REDIS_URL": db.url()}
	for name, value := range brokers {
		t.Setenv(name, value)
	}
	t.Setenv("CGO_ENABLED", "0") // what the tests have built already
	want := []string{"demo", "run", "run", "run", "run", "run", "check", "status", "verify", "make test"}
	var ran []string
	for _, line := range readmeCommands(t) {
		words := strings.Fields(line)
		for len(words) > 0 && strings.Contains(words[0], "=") { // the brokers are set above
			if name, _, _ := strings.Cut(words[0], "="); brokers[name] == "" {
				t.Errorf("%s: %s is not set by this test", line, name)
			}
			words = words[1:]
		}
		args, relay := strings.CutPrefix(strings.Join(words, " "), "go run ./cmd/kafka-failover ")
		switch {
		case !relay: // a target of make that exists
			if out, err := exec.Command("sh", "-c", line+" -n").CombinedOutput(); err != nil || !strings.Contains(string(out), "go test") {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			ran = append(ran, line)
		case args == "demo": // as a newcomer types it
			if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil || !strings.Contains(string(out), "Source and target are equal.") {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			ran = append(ran, "demo")
		case strings.HasPrefix(args, "run "):
			target := fakes["target"]
			for _, name := range []string{"exactly_once", "filtered"} { // other relays, which would find the first one's marks
				if strings.Contains(args, name) {
					target = fakes["target_"+name]
				}
			}
			t.Setenv("TARGET_BROKERS", target)
			r := w.start(append([]string{"run", "--set", "http.address=127.0.0.1:0"}, strings.Fields(strings.ReplaceAll(args, "'", ""))[1:]...)...)
			r.mustLog(time.Minute, "Reading from source")
			if strings.Contains(args, "redis") {
				db.await("orders", 500)
			} else {
				awaitRecords(t, target, 500)
			}
			if code := r.terminate(20 * time.Second); code != 0 {
				t.Errorf("%s: exit code %d\n%s", line, code, r.logs())
			}
			t.Setenv("TARGET_BROKERS", fakes["target"])
			ran = append(ran, "run")
		default:
			out, errs, code := command(t, strings.Fields(args)...)
			if code != 0 || !strings.Contains(out, "orders") {
				t.Errorf("%s: exit code %d\n%s%s", line, code, out, errs)
			}
			ran = append(ran, strings.Fields(args)[0])
		}
	}
	if !slices.Equal(ran, want) {
		t.Errorf("the README shows %q, this test knows %q", ran, want)
	}
}

// produceTo writes n records to a broker.
func produceTo(t *testing.T, broker string, n int, record func(int) *kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range n {
		cl.Produce(testContext(t), record(i), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// awaitRecords waits until the topic orders holds n records.
func awaitRecords(t *testing.T, broker string, n int64) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	eventually(t, time.Minute, "the target holds the records", func() bool {
		l, err := kadm.NewClient(cl).ListEndOffsets(testContext(t), "orders")
		sum := int64(0)
		l.Each(func(o kadm.ListedOffset) { sum += o.Offset })
		return err == nil && sum >= n
	})
}

// The pipelines of the README lint, and the program of docs/building.md builds.
func TestExamplesOfTheDocs(t *testing.T) {
	dir := t.TempDir()
	for _, yaml := range blocks(t, "README.md", "yaml") {
		f := filepath.Join(dir, "example.yaml")
		if err := os.WriteFile(f, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := cli(t, "lint", f); code != 0 {
			t.Errorf("%s\n%s", out, yaml)
		}
	}
	program := filepath.Join(dir, "main.go")
	if err := os.WriteFile(program, []byte(blocks(t, "docs/building.md", "go")[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "own"), program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(filepath.Join(dir, "own"), "list", "outputs").Output()
	if err != nil || !bytes.Contains(out, []byte("kafka_failover")) {
		t.Errorf("the program of docs/building.md lacks the output: %v", err)
	}
}

// The image holds a static binary that runs as an ordinary user: built as the
// Dockerfile says, it needs no loader and no library.
func TestDockerfile(t *testing.T) {
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CGO_ENABLED=0 go build", "FROM scratch", "USER 65532:65532", `ENTRYPOINT ["/kafka-failover"]`, "ca-certificates.crt"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the Dockerfile lacks %q", want)
		}
	}
	f, err := elf.Open(binary) // built with CGO_ENABLED=0 too
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary needs a loader: it is not static")
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("the binary needs %q", libs)
	}
}
