package record

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Fingerprint hashes key, value and headers, in order and with their lengths;
// nil and empty differ. Timestamps are left out: a topic with
// message.timestamp.type=LogAppendTime holds the same record at another time.
func Fingerprint(r *kgo.Record) position.Fingerprint {
	return position.Fingerprint(Hash(r, -1, false))
}

// Hash is the fingerprint of a record without the header at index without (-1:
// with all), and with its timestamp in milliseconds if asked for.
func Hash(r *kgo.Record, without int, timestamp bool) uint64 {
	var d xxhash.Digest
	d.Reset()
	var n [8]byte
	number := func(v int64) {
		binary.LittleEndian.PutUint64(n[:], uint64(v))
		_, _ = d.Write(n[:])
	}
	add := func(b []byte) {
		if b == nil {
			number(-1)
			return
		}
		number(int64(len(b)))
		_, _ = d.Write(b)
	}
	add(r.Key)
	add(r.Value)
	for i, h := range r.Headers {
		if i == without {
			continue
		}
		number(int64(len(h.Key)))
		_, _ = d.WriteString(h.Key)
		add(h.Value)
	}
	if timestamp {
		number(r.Timestamp.UnixMilli())
	}
	return d.Sum64()
}
