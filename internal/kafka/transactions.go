package kafka

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Feature is the level at which the cluster runs a feature (KIP-584), 0 if it
// does not know it.
func (c *Cluster) Feature(ctx context.Context, name string) (int16, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "kafka-failover", "1"
	resp, err := req.RequestWith(ctx, c.Client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return 0, c.unreachable(fmt.Errorf("asking for its features: %w", err))
	}
	for _, f := range resp.FinalizedFeatures {
		if f.Name == name {
			return f.MaxVersionLevel, nil
		}
	}
	return 0, nil
}

// OpenTransactions names the producers that hold transactions open in a
// partition: what keeps its last stable offset back. It is empty where the
// broker does not tell.
func (c *Cluster) OpenTransactions(ctx context.Context, tp position.TP) string {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	set := kadm.TopicsSet{}
	set.Add(tp.Topic, tp.Partition)
	described, err := c.Admin.DescribeProducers(ctx, set)
	if err != nil {
		return ""
	}
	var names []string
	described.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset < 0 {
			return
		}
		name := fmt.Sprintf("producer ID %d", p.ProducerID)
		if listed, err := c.Admin.ListTransactions(ctx, []int64{p.ProducerID}, nil); err == nil {
			for id := range listed {
				name += fmt.Sprintf(" (transactional.id %q)", id)
			}
		}
		names = append(names, fmt.Sprintf("%s since offset %d", name, p.CurrentTxnStartOffset))
	})
	return strings.Join(names, ", ")
}

// LongestTransaction is how long the cluster lets a transaction be open:
// transaction.max.timeout.ms, or Kafka's default where it may not be read.
func (c *Cluster) LongestTransaction(ctx context.Context) time.Duration {
	text, err := c.BrokerConfig(ctx, "transaction.max.timeout.ms")
	if ms, _ := strconv.ParseInt(text, 10, 64); err == nil && ms > 0 {
		return time.Duration(ms) * time.Millisecond
	}
	return 15 * time.Minute
}
