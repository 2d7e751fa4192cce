package kafkafailover_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/position/cachemarks"
)

// redisServer is a Redis process of one test's own, whose data outlive a kill.
type redisServer struct {
	*redis.Client
	t    testing.TB
	dir  string
	port int
	cmd  *exec.Cmd
}

func startRedis(t testing.TB) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is missing: install it (Debian: apt-get install redis-server)")
	}
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	r := &redisServer{t: t, dir: t.TempDir(), port: ports[0]}
	r.Client = redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", r.port)})
	t.Cleanup(func() { _ = r.Close() })
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", "--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--dir", r.dir, "--save", "", "--appendonly", "yes")
	if err := kafkatest.StartProcess(r.cmd); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, 20*time.Second, "redis-server answers", func() bool { return r.Ping(testContext(r.t)).Err() == nil })
}

func (r *redisServer) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

func (r *redisServer) url() string { return fmt.Sprintf("redis://127.0.0.1:%d", r.port) }

// toRedis is a pipeline whose output and positions are in Redis.
func (r *redisServer) toRedis(topic string, p pipeline) pipeline {
	p.topics = topic
	p.input += "\nresume: cache\nresume_cache: positions\nrelay: " + topic
	if p.outputYAML == "" {
		p.outputYAML = r.streams(topic)
	}
	p.top += fmt.Sprintf("\ncache_resources: [ { label: positions, redis: { url: %q } } ]\nmetrics: { prometheus: {} }", r.url())
	return p
}

func (r *redisServer) streams(stream string) string {
	return fmt.Sprintf("redis_streams: { url: %q, stream: %q, max_in_flight: 1 }", r.url(), stream)
}

func (r *redisServer) len(stream string) int64 { return r.XLen(context.Background(), stream).Val() }

func (r *redisServer) await(stream string, n int64) {
	r.t.Helper()
	eventually(r.t, time.Minute, fmt.Sprintf("stream %s holds %d records", stream, n), func() bool { return r.len(stream) >= n })
}

// sets is how often a key was set so far.
func (r *redisServer) sets() int {
	r.t.Helper()
	for line := range strings.Lines(r.Info(testContext(r.t), "commandstats").Val()) {
		if calls, ok := strings.CutPrefix(line, "cmdstat_set:calls="); ok {
			n, _, _ := strings.Cut(calls, ",")
			sets, _ := strconv.Atoi(n)
			return sets
		}
	}
	return 0
}

// delivered is what a stream shows.
type delivered struct {
	copies, back int
	// oldest is how long before the last record ahead of it a record was written
	// that was written again behind that.
	oldest time.Duration
}

// mustHold checks that the stream holds n records of plainRecord, of each
// partition in order: where it goes back, all from there on follows again.
func (r *redisServer) mustHold(stream string, n, partitions int) delivered {
	r.t.Helper()
	entries, err := r.XRange(testContext(r.t), stream, "-", "+").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	var d delivered
	next := make([]int, partitions)      // of each partition: the offset that follows the one before
	times := make([][]int64, partitions) // when each offset came first
	last := make([]int64, partitions)    // when the one before came
	for _, e := range entries {
		p, at := number(e.Values["kafka_partition"]), number(e.Values["kafka_offset"])
		ms, _, _ := strings.Cut(e.ID, "-")
		now := int64(number(ms))
		if want := plainRecord(stream, at*partitions+p, partitions, 200); e.Values["body"] != string(want.Value) || e.Values["kafka_key"] != string(want.Key) || e.Values["n"] != string(want.Headers[0].Value) {
			r.t.Fatalf("partition %d, offset %d is %v", p, at, e.Values)
		}
		switch {
		case at > next[p]:
			r.t.Fatalf("partition %d: offset %d follows %d", p, at, next[p]-1)
		case at < next[p]:
			d.back++
			d.oldest = max(d.oldest, time.Duration(last[p]-times[p][at])*time.Millisecond)
		}
		if at < len(times[p]) {
			d.copies++
		} else {
			times[p] = append(times[p], now)
		}
		next[p], last[p] = at+1, now
	}
	held := 0
	for p := range times {
		held += next[p]
		if next[p] != len(times[p]) {
			r.t.Fatalf("partition %d ends at %d, after %d had come", p, next[p], len(times[p]))
		}
	}
	if held != n {
		r.t.Fatalf("stream %s holds %d records, %d were written", stream, held, n)
	}
	return d
}

func number(v any) int {
	n, _ := strconv.Atoi(fmt.Sprint(v))
	return n
}

// mustStandAt waits until `status` tells that all n records are done.
func (w *world) mustStandAt(n int64, p pipeline) {
	w.t.Helper()
	file := w.file(w.yaml(p))
	eventually(w.t, 30*time.Second, fmt.Sprintf("the positions add up to %d", n), func() bool {
		out, _, code := command(w.t, "status", "--json", file)
		var s struct{ Partitions []struct{ Position int64 } }
		if code != 0 || json.Unmarshal([]byte(out), &s) != nil {
			return false
		}
		sum := int64(0)
		for _, p := range s.Partitions {
			sum += max(0, p.Position)
		}
		return sum == n
	})
}

// The relay is killed with -9 under load before a Redis stream, and started
// again: nothing is lost, order is kept, and what comes twice was written within
// the second before the kill.
func TestCacheRelayKilled(t *testing.T) {
	t.Parallel() // topics of its own
	r := seeded(t)
	w := newWorld(t)
	db := startRedis(t)
	topic := w.topic("kill")
	w.create(w.source, topic, 2)
	load := w.load(topic, 2, 200, 2_000)
	p := db.toRedis(topic, pipeline{ // hardly a moment without a batch that is not written yet
		input: "batch_max_records: 200", processors: "- sleep: { duration: 100us }",
	})
	kills := count(2, 20)
	for kill := range kills {
		relay := w.run(p)
		db.await(topic, db.len(topic)+100)
		at := time.Duration(300+r.IntN(1500)) * time.Millisecond
		if kill == 0 { // long enough for positions that are not written to show
			at += 5 * time.Second
		}
		time.Sleep(at) // a random moment, not a wait for anything
		relay.kill()
	}
	load.stop()
	p.input += "\n" + stopAtEnd
	if code := w.run(p).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	d := db.mustHold(topic, load.count(), 2)
	t.Logf("%d kills, %d records: %d came twice, at most %s old", kills, load.count(), d.copies, d.oldest)
	// Positions are written once a second; a machine under load takes longer.
	if most := 4 * time.Second; d.back > kills*2 || d.oldest > most {
		t.Errorf("went back %d times, by up to %s, want %s at most", d.back, d.oldest, most)
	}
	if d.copies == 0 {
		t.Error("nothing came twice: no kill hit anything")
	}
}

// The source that is read is killed with -9: reading goes on from the other one,
// each record comes once, positions are written once a second, and a stop and a
// start repeat nothing.
func TestCacheFailoverAndRestart(t *testing.T) {
	p := newPool(t, 2)
	db := startRedis(t)
	topic := p.topic("failover")
	p.eachSource(func(i int) { p.create(p.sources[i], topic, 2) })
	load := p.loadAll(topic, 2, 200, 1_000)
	conf := p.config(db.toRedis(topic, pipeline{processors: "- noop: {}"}))
	began, before := time.Now(), db.sets()
	relay := p.run(conf)
	db.await(topic, 500)
	relay.awaitState(1, "healthy", 1, time.Minute)
	p.sources[0].Kill(0)
	db.await(topic, db.len(topic)+1_000)
	if got := relay.switches(); got != 1 {
		t.Errorf("%d switches", got)
	}
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if sets, most := db.sets()-before, int(time.Since(began).Seconds())+2; sets < 2 || sets > most {
		t.Errorf("%d writes of positions, want at most %d", sets, most)
	}
	if err := p.sources[0].Restart(0); err != nil {
		t.Fatal(err)
	}
	relay = p.run(conf)
	load.stop()
	db.await(topic, int64(load.count()))
	if code := relay.terminate(30 * time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if d := db.mustHold(topic, load.count(), 2); d.copies > 0 {
		t.Errorf("%d records came twice", d.copies)
	}
	p.mustStandAt(int64(load.count()), conf)
	if out, errs, code := command(t, "check", p.file(p.yaml(conf))); code != 0 || !strings.Contains(out, "mark in the cache") {
		t.Errorf("check: exit code %d\n%s%s", code, out, errs)
	}
}

// What is filtered is done, though the output never sees a batch.
func TestCacheFiltersAll(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	db := startRedis(t)
	topic := w.topic("none")
	w.create(w.source, topic, 2)
	w.fill(topic, 3_000, 2, 200)
	p := db.toRedis(topic, pipeline{processors: "- mapping: root = deleted()"})
	w.run(p)
	w.mustStandAt(3_000, p)
	if n := db.len(topic); n != 0 {
		t.Errorf("%d records came through", n)
	}
}

// Batches that the output refuses are read again, with others under way; so is
// what a Redis that is killed had not taken.
func TestCacheOutputRefuses(t *testing.T) {
	t.Parallel() // topics of its own
	w := newWorld(t)
	db := startRedis(t)
	topic := w.topic("nacks")
	w.create(w.source, topic, 2)
	w.fill(topic, 1_000, 2, 200)
	p := db.toRedis(topic, pipeline{
		input:      "max_in_flight: 4\nbatch_max_records: 50\nretry: { initial_interval: 50ms, max_interval: 100ms }",
		threads:    1,
		processors: `- mapping: 'root = if count("` + topic + `") == 333 { throw("not now") }'`,
		outputYAML: "reject_errored:\n    " + db.streams(topic),
	})
	relay := w.run(p)
	w.mustStandAt(1_000, p)
	relay.mustLog(time.Second, "which is read again: rejecting due to failed processing")
	entries, err := db.XRange(testContext(t), topic, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		seen[fmt.Sprint(e.Values["n"])] = true
	}
	if most := 1_000 + 4*50; len(seen) != 1_000 || len(entries) > most {
		t.Fatalf("%d of 1000 records came, %d copies in all", len(seen), len(entries))
	}
	db.kill()
	w.fillFrom(topic, 1_000, 1_000, 2, 200)
	eventually(t, 20*time.Second, "the relay is unready", func() bool { code, _ := relay.ready(); return code == 503 })
	db.start()
	w.mustStandAt(2_000, p)
	clear(seen)
	if entries, err = db.XRange(testContext(t), topic, "-", "+").Result(); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		seen[fmt.Sprint(e.Values["n"])] = true
	}
	if len(seen) != 2_000 {
		t.Fatalf("%d of 2000 records came", len(seen))
	}
}

// A start goes on where the marks stand, and only on a source that holds what
// was delivered: with positions in files, and quick fake clusters.
func TestCacheGuards(t *testing.T) {
	t.Parallel() // topics of its own
	w := &world{t: t}
	dc1 := kafkatest.Fake(t, "cache1", kfake.SeedTopics(1, "orders"))
	record := func(i int) *kgo.Record { return &kgo.Record{Topic: "orders", Value: fmt.Appendf(nil, "%d", i)} }
	produceTo(t, dc1.ListenAddrs()[0], 100, record)
	dir := t.TempDir()
	conf := func(broker, input string) string {
		return w.file(fmt.Sprintf(`
input:
  label: guards
  kafka_failover: { sources: [ { name: dc1, seed_brokers: [ %q ] } ], topics: [ orders ], resume: cache, resume_cache: files, %s }
output: { file: { path: %q, codec: lines } }
cache_resources: [ { label: files, file: { directory: %q } } ]
http: { enabled: false }
`, broker, input, filepath.Join(dir, "out"), dir))
	}
	toEnd := func(broker string, code, lines int) *proc {
		t.Helper()
		r := w.start("run", conf(broker, stopAtEnd))
		if got := r.wait(time.Minute); got != code {
			t.Fatalf("exit code %d, want %d\n%s", got, code, r.logs())
		}
		out, err := os.ReadFile(filepath.Join(dir, "out"))
		if got := strings.Count(string(out), "\n"); got != lines || err != nil {
			t.Fatalf("%d lines were written, want %d; %v", got, lines, err)
		}
		return r
	}
	toEnd(dc1.ListenAddrs()[0], 0, 100)
	toEnd(dc1.ListenAddrs()[0], 0, 100) // nothing again

	short := kafkatest.Fake(t, "cache2", kfake.SeedTopics(1, "orders"))
	produceTo(t, short.ListenAddrs()[0], 60, record)
	r := w.start("run", conf(short.ListenAddrs()[0], "on_gap: stop"))
	r.mustLog(time.Minute, "ends at offset 60, the relay stands at 100")
	r.kill()

	differs := kafkatest.Fake(t, "cache3", kfake.SeedTopics(1, "orders"))
	produceTo(t, differs.ListenAddrs()[0], 200, func(i int) *kgo.Record { return record(1000 + i) })
	toEnd(differs.ListenAddrs()[0], 1, 100).mustLog(time.Second, "does not hold the records that were relayed before")

	for _, key := range cachemarks.Keys("guards") {
		_ = os.Remove(filepath.Join(dir, key))
	}
	toEnd(differs.ListenAddrs()[0], 0, 300) // positions given up: it begins anew
}
