package relay

import "github.com/twmb/franz-go/pkg/kgo"

// keyHash is used for keys only, for which it keeps no state.
var keyHash = kgo.StickyKeyPartitioner(nil).ForTopic("")

// PartitionByKey is the partition of n that Kafka's default partitioner chooses
// for a record's key (murmur2). Without a key the source partition decides, so
// that its order stays.
func PartitionByKey(r *kgo.Record, source int32, n int) int {
	if r.Key == nil {
		return int(source) % n
	}
	return keyHash.Partition(r, n)
}
