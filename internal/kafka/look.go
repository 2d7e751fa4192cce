package kafka

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Look asks for everything a probe wants to know: the cluster's ID, the topics
// with their partitions and leaders, and the end of every partition as its own
// leader tells it. It fails if any partition has no leader that answers. It has
// no deadline but ctx.
func (c *Cluster) Look(ctx context.Context, end Bound, topics ...string) (*Description, map[position.TP]int64, error) {
	d, err := c.describe(ctx, topics)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range topics {
		if err := d.Topics[name].Usable(c.Conn.Name, name); err != nil {
			return d, nil, err
		}
	}
	ends, err := c.ends(ctx, d, end)
	return d, ends, err
}

// MissingTopicError is a topic that a cluster does not know. A broker just
// started may not know it yet.
type MissingTopicError struct{ Cluster, Topic string }

func (e *MissingTopicError) Error() string {
	return fmt.Sprintf("%s has no topic %q: create it, or correct topics", e.Cluster, e.Topic)
}

// Usable tells why the topic cannot be read as a whole.
func (t Topic) Usable(cluster, name string) error {
	switch {
	case t.Missing():
		return &MissingTopicError{cluster, name}
	case t.Err != nil:
		return fmt.Errorf("%s, topic %q: %w", cluster, name, t.Err)
	case len(t.Leaderless) > 0:
		return fmt.Errorf("%s: partition %s/%d has no leader", cluster, name, t.Leaderless[0])
	}
	return nil
}

// ends asks every leader for the ends of its partitions, all at once.
func (c *Cluster) ends(ctx context.Context, d *Description, end Bound) (map[position.TP]int64, error) {
	byLeader := map[int32]*kmsg.ListOffsetsRequest{}
	for name, t := range d.Topics {
		for p, leader := range t.leaders {
			req := byLeader[leader]
			if req == nil {
				req = kmsg.NewPtrListOffsetsRequest()
				req.ReplicaID = -1
				if end == LastStable {
					req.IsolationLevel = 1
				}
				byLeader[leader] = req
			}
			addPartition(req, name, p)
		}
	}
	out := map[position.TP]int64{}
	var mu sync.Mutex
	eg, ctx := errgroup.WithContext(ctx)
	for leader, req := range byLeader {
		eg.Go(func() error {
			ends, err := c.endsAt(ctx, leader, req)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(out, ends)
			return err
		})
	}
	return out, eg.Wait()
}

func addPartition(req *kmsg.ListOffsetsRequest, topic string, partition int32) {
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = partition, -1 // the end
	if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != topic {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		req.Topics = append(req.Topics, t)
	}
	t := &req.Topics[len(req.Topics)-1]
	t.Partitions = append(t.Partitions, p)
}

func (c *Cluster) endsAt(ctx context.Context, leader int32, req *kmsg.ListOffsetsRequest) (map[position.TP]int64, error) {
	first := position.TP{Topic: req.Topics[0].Topic, Partition: req.Topics[0].Partitions[0].Partition}
	resp, err := c.Client.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return nil, c.unreachable(fmt.Errorf("broker %d, leader of partition %s: %w", leader, first, err))
	}
	out := map[position.TP]int64{}
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			tp := position.TP{Topic: t.Topic, Partition: p.Partition}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("%s, broker %d, end of partition %s: %w", c.Conn.Name, leader, tp, err)
			}
			out[tp] = p.Offset
		}
	}
	return out, nil
}

const (
	// askNextAfter an unanswered question another broker is asked too: one that
	// hangs gives no error.
	askNextAfter = 200 * time.Millisecond
	// askMost brokers are asked one question.
	askMost = 8
)

// askAny asks for metadata whichever broker answers first. The client goes
// through its brokers from one question to the next.
func (c *Cluster) askAny(ctx context.Context, request func() *kmsg.MetadataRequest) (*kmsg.MetadataResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		resp *kmsg.MetadataResponse
		err  error
	}
	answers := make(chan answer, askMost)
	asked, open := 0, 0
	ask := func() {
		asked, open = asked+1, open+1
		go func() {
			resp, err := request().RequestWith(ctx, c.Client)
			answers <- answer{resp, err}
		}()
	}
	most := min(askMost, len(c.Client.SeedBrokers())+len(c.Client.DiscoveredBrokers())+1)
	var first error
	next := time.NewTicker(askNextAfter)
	defer next.Stop()
	for ask(); ; {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.resp, nil
			}
			if first == nil {
				first = a.err
			}
			if open--; asked == most && open == 0 {
				return nil, first
			}
			if asked < most {
				ask()
			}
		case <-next.C:
			if asked < most {
				ask()
			}
		case <-ctx.Done():
			if first == nil {
				first = ctx.Err()
			}
			return nil, first
		}
	}
}

func metadataRequest(topics []string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	return req
}
