package convert

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// The sample and two variants become exactly these pipelines.
func TestGolden(t *testing.T) {
	for name, o := range map[string]Options{"sample": {}, "single": {Single: true, StopAtEnd: true}, "tls": {}} {
		in, err := os.ReadFile("testdata/" + name + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		got, err := TOML(o, in)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(got, "pass-") || strings.Contains(got, "secret-of") {
			t.Errorf("%s: a password is in the output", name)
		}
		golden := "testdata/" + name + ".yaml"
		if *rewrite {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Every key of the sample is found again: mapped, or named as dropped.
func TestNothingIsLeftOutSilently(t *testing.T) {
	in := []byte("[app]\nnovel = 1\n[surprise]\nx = 1\n[topics]\na = \"b\"\n[source_pool]\nnovel = 2\n[[sources]]\nservers = [\"h:1\"]\nnovel = 3\n[target]\nservers = [\"h:2\"]\nnovel = 4\n[filters.f]\nenabled = true\nnovel = 5\n")
	got, err := TOML(Options{}, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"app.novel", "surprise", "source_pool.novel", "sources[0].novel", "target.novel", "filters.f.novel"} {
		if !strings.Contains(got, "#   "+key+": not a key of kaf-relay") {
			t.Errorf("%s is not named:\n%s", key, got)
		}
	}
}

// A later file's keys replace an earlier one's, and --topic lays itself over those
// of all files.
func TestMerge(t *testing.T) {
	base := []byte("[topics]\na = \"b:3\"\n[[sources]]\nservers = [\"h:1\"]\n[target]\nservers = [\"h:2\"]\ncompression = \"gzip\"\n")
	got, err := TOML(Options{Topics: []string{"x:y:0", "a:c:1"}}, base, []byte("[target]\ncompression = \"lz4\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, "compression: lz4") || !strings.Contains(got, `- "x:y:0"`) || !strings.Contains(got, `- "a:c:1"`) || strings.Contains(got, "a:b") {
		t.Error(got)
	}
}

// Clusters whose names give one variable get one each, but for equal passwords.
func TestVariables(t *testing.T) {
	in := "[topics]\na = \"b\"\n[target]\nservers = [\"h:9\"]\n"
	for i, s := range []string{"a-b pass-1", "a.b pass-2", "a_b pass-1"} {
		name, password, _ := strings.Cut(s, " ")
		in += fmt.Sprintf("[[sources]]\nname = %q\nservers = [\"h:%d\"]\nenable_auth = true\nsasl_mechanism = \"PLAIN\"\nusername = \"u\"\npassword = %q\n", name, i+1, password)
	}
	got, err := TOML(Options{}, []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if n, m := strings.Count(got, "${A_B_PASSWORD}"), strings.Count(got, "${A_B_PASSWORD_2}"); n != 2 || m != 1 || strings.Contains(got, "pass-") {
		t.Error(got)
	}
}

func TestBadInput(t *testing.T) {
	const rest = "[topics]\na = \"b\"\n[[sources]]\nservers = [\"h:1\"]\n"
	for name, c := range map[string]struct{ in, says string }{
		"no TOML":    {"topics: [ a ]", "not TOML"},
		"no sources": {"[topics]\na = \"b\"\n[target]\nservers = [\"h:1\"]\n", "no [[sources]]"},
		"no topics":  {"[[sources]]\nservers = [\"h:1\"]\n[target]\nservers = [\"h:1\"]\n", "no [topics]"},
		"no target":  {rest, "no servers"},
		"mechanism":  {strings.Replace(rest, "servers", "enable_auth = true\nsasl_mechanism = \"GSSAPI\"\nservers", 1) + "[target]\nservers = [\"h:2\"]\n", "write PLAIN"},
		"wrong time": {rest + "[source_pool]\nrequest_timeout = \"soon\"\n[target]\nservers = [\"h:2\"]\n", "not a time"},
	} {
		if _, err := TOML(Options{}, []byte(c.in)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
