package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListedTopic is one topic of a cluster.
type ListedTopic struct {
	Name string
	// Internal: the cluster keeps it for itself, such as __consumer_offsets.
	Internal bool
	// Usable: all its partitions have leaders.
	Usable bool
}

// ListTopics lists every topic of the cluster that this client may describe.
func (c *Cluster) ListTopics(ctx context.Context) ([]ListedTopic, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := c.askAny(ctx, kmsg.NewPtrMetadataRequest) // which names none: all
	if err != nil {
		return nil, c.unreachable(err)
	}
	var out []ListedTopic
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if t.Topic == nil || kerr.ErrorForCode(t.ErrorCode) != nil && len(t.Partitions) == 0 {
			continue
		}
		out = append(out, ListedTopic{Name: *t.Topic, Internal: t.IsInternal, Usable: topicOf(t).Usable(c.Conn.Name, *t.Topic) == nil && len(t.Partitions) > 0})
	}
	return out, nil
}
