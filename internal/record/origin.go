// Package record turns Kafka records into Benthos messages and back, and
// writes the header that ties a target record to the source record it was
// made from.
package record

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Origin says which source record a target record was made from, and which one
// was handed to the producer before it. As a header value it is
// relay_id/topic/partition/offset/prev.
type Origin struct {
	RelayID   string
	Topic     string
	Partition int32
	Offset    int64
	// Prev is the offset of the record of the same source partition that was
	// handed to the producer before this one; its own offset where the record
	// is one piece of several, which proves nothing by being there.
	Prev int64
}

var errOrigin = errors.New("not an origin: want relay_id/topic/partition/offset/prev")

// AppendPrefix appends relay_id/topic/partition/, the part that all records of
// one source partition share.
func AppendPrefix(b []byte, relayID, topic string, partition int32) []byte {
	b = append(b, relayID...)
	b = append(b, '/')
	b = append(b, topic...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(partition), 10)
	return append(b, '/')
}

// AppendOffsets appends offset/prev behind a prefix.
func AppendOffsets(b []byte, offset, prev int64) []byte {
	b = strconv.AppendInt(b, offset, 10)
	b = append(b, '/')
	return strconv.AppendInt(b, prev, 10)
}

// AppendOffsetsAfter does the same where prev is already there in digits, from
// the record before.
func AppendOffsetsAfter(b []byte, offset int64, prev []byte) []byte {
	b = strconv.AppendInt(b, offset, 10)
	b = append(b, '/')
	return append(b, prev...)
}

// ParseOrigin reads a header value back.
func ParseOrigin(b []byte) (Origin, error) {
	f := strings.Split(string(b), "/")
	if len(f) != 5 {
		return Origin{}, errOrigin
	}
	part, err1 := strconv.ParseInt(f[2], 10, 32)
	off, err2 := strconv.ParseInt(f[3], 10, 64)
	prev, err3 := strconv.ParseInt(f[4], 10, 64)
	if errors.Join(err1, err2, err3) != nil {
		return Origin{}, errOrigin
	}
	return Origin{f[0], f[1], int32(part), off, prev}, nil
}

// LastOrigin returns the origin that the last relay wrote: the last header of
// that name. A chain of relays leaves one header each.
func LastOrigin(r *kgo.Record, header string) (Origin, bool) {
	i := OriginAt(r, header)
	if i < 0 {
		return Origin{}, false
	}
	o, err := ParseOrigin(r.Headers[i].Value)
	return o, err == nil
}

// OriginAt is the index of the last header of that name, -1 if there is none.
func OriginAt(r *kgo.Record, header string) int {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == header {
			return i
		}
	}
	return -1
}

// PassedThrough tells whether a relay of this id has written the record
// before, anywhere along its way: then relaying it again would be a loop.
func PassedThrough(r *kgo.Record, header, relayID string) bool {
	for i := range r.Headers {
		h := &r.Headers[i]
		if h.Key != header || len(h.Value) <= len(relayID) || h.Value[len(relayID)] != '/' {
			continue
		}
		if string(h.Value[:len(relayID)]) == relayID && bytes.Count(h.Value, []byte{'/'}) == 4 {
			return true
		}
	}
	return false
}
