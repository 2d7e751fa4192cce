package kafkafailover_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// payment is a record of which config/filtered.yaml keeps one in six.
func payment(topic string, i int) *kgo.Record {
	region, currency := []string{"eu", "us"}[i%2], []string{"INR", "EUR", "USD"}[i%3]
	return &kgo.Record{
		Topic: topic, Partition: int32(i % 5 % 4), Key: fmt.Appendf(nil, "%s-%d", region, i), Timestamp: epoch.Add(time.Duration(i) * time.Millisecond),
		Value:   fmt.Appendf(nil, `{"currency":%q,"email":"someone-%d@example.org","n":%d}`, currency, i%10, i),
		Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Appendf(nil, "%d", i)}},
	}
}

// redacted is what should become of a payment.
func redacted(r *kgo.Record) *kgo.Record {
	var i, n int
	var currency, rest string
	value := strings.NewReplacer(`{"currency":"`, "", `","email":"someone-`, " ", `@example.org","n":`, " ", "}", "").Replace(string(r.Value))
	if _, err := fmt.Sscan(value, &currency, &i, &n); err != nil {
		panic(err)
	}
	if currency != "INR" || !strings.HasPrefix(string(r.Key), "eu-") {
		return nil
	}
	h := hmac.New(sha256.New, []byte("s3cret"))
	_, _ = fmt.Fprintf(h, "someone-%d@example.org", i)
	rest = hex.EncodeToString(h.Sum(nil))
	out := *r
	out.Value = fmt.Appendf(nil, `{"currency":"INR","email":%q,"n":%d}`, rest, n)
	return &out
}

// config/filtered.yaml as it stands, killed with -9 and with the source switched
// in the middle: each record that the filters keep is there once, and nothing
// else.
func TestFilteredConfiguration(t *testing.T) {
	r := seeded(t)
	p := newPool(t, 2)
	topic := p.all("filtered", 4)
	load := generate(t, 20_000, func(i int) *kgo.Record { return payment(topic, i) }, p.source.Client(t), p.sources[1].Client(t))
	proxies := p.proxied(0)
	conf, err := os.ReadFile("config/filtered.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DC1_BROKERS", p.brokers[0])
	t.Setenv("DC2_BROKERS", p.brokers[1])
	t.Setenv("TARGET_BROKERS", strings.Join(p.target.Brokers(), ","))
	t.Setenv("REDACT_SECRET", "s3cret")
	args := []string{
		"-r", "resources/filters/*.yaml", "--set", "input.kafka_failover.topics.0=" + topic,
		"--set", "output.kafka_failover.relay_id=" + p.name, "--set", "output.kafka_failover.progress_topic=" + p.topic("progress"),
	}
	arrives := func(relay *proc) {
		before := max(0, ends(t, p.target, topic))
		awaitEnds(t, p.target, topic, before+500, time.Minute)
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond) // a random moment
		_ = relay
	}
	for round := range count(2, 10) {
		relay := p.runYAML(string(conf), args...)
		arrives(relay)
		if round%2 == 0 {
			proxies.Cut()
			relay.mustLog(30*time.Second, "Switched from source dc1 to dc2")
			arrives(relay)
			proxies.Mend()
		}
		relay.kill()
	}
	load.stop()
	relay := p.runYAML(string(conf), append(args, "--set", "input.kafka_failover.stop_at_end=true")...)
	if code := relay.wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	rep := p.compare(oracle.Options{Topics: same(topic), Expect: redacted})
	if t.Log(rep); !rep.Faithful() || rep.Source < load.count()/6 || rep.Duplicated > 2_000*count(2, 10) {
		t.Fatalf("%v, %d were written", rep, load.count())
	}
}

// What filters take out is counted under their names, and what other processors
// do as the pipeline's, whether or not anything is left of a batch.
func TestFilteredIsCounted(t *testing.T) {
	for name, c := range map[string]struct {
		processors string
		want       map[string]float64
		relayed    float64
	}{
		"filters": {`
- kafka_failover_filter: { name: even, check: this.n % 2 == 0 }
- kafka_failover_filter: { name: late, check: this.n >= 500 }`, map[string]float64{"even": 500, "late": 250, "pipeline": 0}, 250},
		"with others": {`
- kafka_failover_filter: { name: even, check: meta("n").number() % 2 == 0 }
- mapping: root = if this.n < 500 { deleted() }`, map[string]float64{"even": 500, "pipeline": 250}, 250},
		"everything": {`
- mapping: root = if this.n < 500 { deleted() }
- kafka_failover_filter: { name: none, check: "false" }`, map[string]float64{"none": 500, "pipeline": 500}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("counted", 2)
			w.fill(topic, 1000, 2, 60)
			relay := w.run(pipeline{topics: topic, processors: c.processors, threads: 2, input: "batch_max_records: 100", top: "metrics: { prometheus: {} }"})
			relay.awaitMark(w, topic, 0, 500)
			relay.awaitMark(w, topic, 1, 500)
			for filter, n := range c.want {
				if got := relay.metric("kafka_relay_messages_filtered_total", fmt.Sprintf("filter=%q", filter)); got != n {
					t.Errorf("%s: %v, want %v", filter, got, n)
				}
			}
			if got := relay.metric("kafka_relay_messages_relayed_total"); got != c.relayed {
				t.Errorf("%v are counted as relayed, want %v", got, c.relayed)
			}
			// The engine's own counters count records too, whatever carries them.
			engine := map[string]float64{"input_received": 1000, "output_sent": c.relayed}
			if name == "filters" {
				engine["processor_received"], engine["processor_sent"] = 1000+500, 500+250
			}
			for counter, n := range engine {
				if got := max(0, relay.metric(counter)); got != n {
					t.Errorf("%s: %v, want %v", counter, got, n)
				}
			}
			relay.terminate(30 * time.Second)
			rep := w.compare(oracle.Options{Topics: same(topic), Expect: func(r *kgo.Record) *kgo.Record {
				var n int
				_, _ = fmt.Sscan(string(r.Headers[0].Value), &n)
				if name == "everything" || n%2 != 0 || n < 500 {
					return nil
				}
				return r
			}})
			if !rep.Exact() {
				t.Fatal(rep)
			}
		})
	}
}

// A check that fails stops the relay at the record, whatever the output does with
// failed ones; or keeps it, or drops it, as it says.
func TestFilterFails(t *testing.T) {
	for onError, c := range map[string]struct{ code, kept int }{"stop": {1, 10}, "keep": {0, 20}, "drop": {0, 19}} {
		t.Run(onError, func(t *testing.T) {
			w := newWorld(t)
			topic := w.both("fails", 1)
			w.fillOf(20, func(i int) *kgo.Record {
				r := plainRecord(topic, i, 1, 60)
				if i == 10 {
					r.Value = []byte("no JSON")
				}
				return r
			})
			relay := w.run(pipeline{topics: topic, input: stopAtEnd, output: "on_error: drop",
				processors: "- kafka_failover_filter: { name: some, check: this.n >= 0, on_error: " + onError + " }"})
			if code := relay.wait(time.Minute); code != c.code {
				t.Fatalf("exit code %d", code)
			}
			if got := ends(t, w.target, topic); got != int64(c.kept) {
				t.Errorf("%d records are in the target, want %d", got, c.kept)
			}
			if onError == "stop" {
				relay.mustLog(time.Second, topic+"/0 offset 10: a processor failed on it: filter \\\"some\\\" failed")
			} else {
				relay.mustLog(time.Second, "Filter some failed on a record, on_error: "+onError)
			}
		})
	}
}
