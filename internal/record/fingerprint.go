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
	var d xxhash.Digest
	d.Reset()
	var n [8]byte
	add := func(b []byte) {
		l := int64(len(b))
		if b == nil {
			l = -1
		}
		binary.LittleEndian.PutUint64(n[:], uint64(l))
		_, _ = d.Write(n[:])
		_, _ = d.Write(b)
	}
	add(r.Key)
	add(r.Value)
	for _, h := range r.Headers {
		add([]byte(h.Key))
		add(h.Value)
	}
	return position.Fingerprint(d.Sum64())
}
