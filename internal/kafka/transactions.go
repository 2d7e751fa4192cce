package kafka

import (
	"context"
	"fmt"
	"strings"

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
// broker does not tell. hanging is the start offset of one that no coordinator
// knows of, which never ends by itself (KIP-664); -1 without any.
func (c *Cluster) OpenTransactions(ctx context.Context, tp position.TP) (names string, hanging int64) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	hanging = -1
	set := kadm.TopicsSet{}
	set.Add(tp.Topic, tp.Partition)
	described, err := c.Admin.DescribeProducers(ctx, set)
	if err != nil {
		return "", hanging
	}
	var list []string
	described.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset < 0 {
			return
		}
		name := fmt.Sprintf("producer ID %d", p.ProducerID)
		listed, err := c.Admin.ListTransactions(ctx, []int64{p.ProducerID}, nil)
		for id := range listed {
			name += fmt.Sprintf(" (transactional.id %q)", id)
		}
		if err == nil && len(listed) == 0 {
			hanging = p.CurrentTxnStartOffset
		}
		list = append(list, fmt.Sprintf("%s since offset %d", name, p.CurrentTxnStartOffset))
	})
	return strings.Join(list, ", "), hanging
}
