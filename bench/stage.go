package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
	"github.com/kafka-failover/kafka-failover/internal/oracle"
)

// stage is one source and one target broker, where contenders run in turn.
type stage struct {
	src, dst *kafkatest.Cluster
	dir      string
	loaded   map[string]bool
}

func newStage() (*stage, error) {
	dir, err := os.MkdirTemp("", "kafka-failover-bench-")
	if err != nil {
		return nil, err
	}
	s := &stage{dir: dir, loaded: map[string]bool{}}
	opts := kafkatest.Options{Heap: "768m", JIT: true}
	if s.src, err = kafkatest.Launch("benchsrc", opts); err == nil {
		s.dst, err = kafkatest.Launch("benchdst", opts)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stage) close() {
	for _, c := range []*kafkatest.Cluster{s.src, s.dst} {
		if c != nil {
			c.Stop()
			c.Remove()
		}
	}
	_ = os.RemoveAll(s.dir)
}

// round prepares a run: the shape's data, loaded once, and an empty target topic.
func (s *stage) round(c *contender, number int) (*round, error) {
	if !s.loaded[c.shape.name] {
		if err := c.shape.load(s.src, flags.seed); err != nil {
			return nil, fmt.Errorf("loading %s: %w", c.shape.name, err)
		}
		s.loaded[c.shape.name] = true
	}
	r := &round{dir: s.dir, src: s.src, dst: s.dst, source: s.src.Brokers()[0], target: s.dst.Brokers()[0], from: c.shape.name, into: c.id(number), shape: c.shape, number: number}
	if c.sameName {
		r.into = r.from
	}
	return r, s.onTarget(func(cl *kgo.Client) error { return create(cl, r.into, c.shape.partitions) })
}

func (s *stage) onTarget(do func(*kgo.Client) error) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.dst.Brokers()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	return do(cl)
}

// await waits until the target topic holds n records.
func (s *stage) await(topic string, n int) error {
	return s.onTarget(func(cl *kgo.Client) error {
		adm, began := kadm.NewClient(cl), time.Now()
		for end(adm, topic) < n {
			if time.Since(began) > patience {
				return fmt.Errorf("%s: %d of %d records after %s", topic, end(adm, topic), n, patience)
			}
			time.Sleep(lookEvery)
		}
		return nil
	})
}

// run lets a contender run once. Round 0 warms the brokers up and does not count;
// the target of the round called last is compared with its source.
func (s *stage) run(c *contender, number int, last bool) error {
	r, err := s.round(c, number)
	if err != nil {
		return err
	}
	cmd, err := c.start(r)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if flags.profile != "" && c.tied == byOrigin {
		go profile(r.into)
	}
	got, err := measure(s.dst, cmd, r.into, c.shape, c.ends)
	if err != nil {
		return fmt.Errorf("%s, round %d: %w%s", c.name, number, err, r.logged())
	}
	fmt.Printf("round %d %-36s %9.0f records/s %8.1f MB/s %6.2f CPU-s/M %5.0f MiB\n", number, c.name, got.rate, got.bytes, got.cpu, got.peak)
	if number > 0 {
		c.samples = append(c.samples, got)
	}
	if last {
		if c.report, err = r.compare(c); err != nil {
			return fmt.Errorf("%s: comparing: %w", c.name, err)
		}
		fmt.Printf("        %s\n", strings.ReplaceAll(c.report.String(), "\n", "\n        "))
	}
	return s.clear(c, r)
}

// clear makes room for the next one.
func (s *stage) clear(c *contender, r *round) error {
	if c.cleanUp != nil {
		if err := c.cleanUp(r); err != nil {
			return err
		}
	}
	return s.onTarget(func(cl *kgo.Client) error {
		_, err := kadm.NewClient(cl).DeleteTopic(context.Background(), r.into)
		return err
	})
}

// logged is what a peer has said.
func (r *round) logged() string {
	b, err := os.ReadFile(filepath.Join(r.dir, r.into+".log"))
	if err != nil || len(b) == 0 {
		return ""
	}
	return "; it said:\n" + string(b[max(0, len(b)-2000):])
}

// compare is the oracle's word on one target.
func (r *round) compare(c *contender) (*oracle.Report, error) {
	src, err := admin("source", r.source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	dst, err := admin("target", r.target)
	if err != nil {
		return nil, err
	}
	defer dst.Close()
	return oracle.Compare(context.Background(), src, dst, oracle.Options{Topics: map[string]string{r.from: r.into}, ByOffset: c.tied == byOffset, ByKey: c.tied == byKey})
}

func admin(name, broker string) (*kafka.Cluster, error) {
	return kafka.Conn{Name: name, SeedBrokers: []string{broker}, ClientID: "bench", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute}.Admin()
}

// rounds lets all run in turn, several times. Peers have no warm-up, since the
// brokers are warm when their turn comes.
func (s *stage) rounds(cs []*contender, n int) error {
	for number := range n + 1 {
		for _, c := range cs {
			if err := s.run(c, number, number == n); err != nil {
				return err
			}
		}
	}
	return nil
}

// profile takes a CPU profile of a relay under load.
func profile(name string) {
	var resp *http.Response
	var err error
	for range 200 { // until it listens
		if resp, err = http.Get("http://127.0.0.1:6060/debug/pprof/profile?seconds=2"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil {
		defer resp.Body.Close()
		var f *os.File
		if f, err = os.Create(filepath.Join(flags.profile, name+".prof")); err == nil {
			_, err = io.Copy(f, resp.Body)
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
	}
}
