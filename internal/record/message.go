package record

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Metadata that the input sets with `metadata: standard`, as Connect's Kafka
// inputs name it.
const (
	MetaKey       = "kafka_key"
	MetaTopic     = "kafka_topic"
	MetaPartition = "kafka_partition"
	MetaOffset    = "kafka_offset"
	MetaTimestamp = "kafka_timestamp_ms"
	MetaTombstone = "kafka_tombstone_message"
	MetaSource    = "kafka_source"
	// MetaOrigin carries the *Source of a message through the pipeline. It is
	// immutable metadata, which survives mapping, split, unarchive and branch;
	// message contexts do not: they shift when a batch is filtered.
	MetaOrigin = "kafka_failover_origin"
)

// standard are the entries that each message has with `metadata: standard`.
var standard = []string{MetaKey, MetaTopic, MetaPartition, MetaOffset, MetaTimestamp, MetaTombstone, MetaSource}

// reserved names never stand for a record header.
var reserved = map[string]bool{
	MetaKey: true, MetaTopic: true, MetaPartition: true, MetaOffset: true,
	MetaTimestamp: true, MetaTombstone: true, MetaSource: true, MetaOrigin: true,
}

// ErrStop is wrapped by the error of a message that the relay is to stop at,
// whatever the output's on_error says of failed ones.
var ErrStop = errors.New("on_error: stop")

// Source is the source record of a message, and the place it has in the order
// of reading.
type Source struct {
	Record *kgo.Record
	Span   int // index of its run of offsets within the batch's ticket
	Batch  *Batch
	// Failed is what failed on it where it travels without a message of its own.
	Failed *Failure
}

// Failure is what a message's error is to a message.
type Failure struct {
	Err error
	// Component is the label, name or path of what failed.
	Component string
}

// Batch is what the records of one batch share.
type Batch struct {
	Ticket   uint64 // its number in the order of reading
	Standard bool   // messages carry standard metadata
	Cluster  string // name of the source that was read
}

// Copy returns the receiver: a source record is never changed.
func (s *Source) Copy() any { return s }

// MarshalJSON lets a pipeline that prints all metadata print this too.
func (s *Source) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"topic": s.Record.Topic, "partition": s.Record.Partition, "offset": s.Record.Offset})
}

// SourceOf returns what a message was made from; nil for a message that no
// kafka_failover input made, or whose metadata a processor deleted as a whole.
func SourceOf(m *service.Message) *Source {
	v, ok := m.MetaGetImmut(MetaOrigin)
	if !ok {
		return nil
	}
	s, _ := v.(*Source)
	return s
}

// NewMessage makes the message of one source record. If its batch is to have
// it, it carries the metadata that Connect's users know.
func NewMessage(ctx context.Context, s *Source) *service.Message {
	m := service.NewMessageWithContext(ctx, s.Record.Value)
	if s.Batch.Standard {
		setStandard(m, s)
	}
	m.MetaSetImmut(MetaOrigin, s)
	return m
}

func setStandard(m *service.Message, s *Source) {
	for _, h := range s.Record.Headers { // of several of one name the last one counts
		if !reserved[h.Key] {
			m.MetaSetMut(h.Key, headerMeta(h))
		}
	}
	for _, name := range standard {
		v, _ := s.Metadata(name)
		m.MetaSetMut(name, v)
	}
}

// NewForeign makes the message of one source record for an output that is not
// ours: it has the same metadata, and nothing that such an output would write out
// without knowing what it is.
func NewForeign(ctx context.Context, s *Source) *service.Message {
	m := service.NewMessageWithContext(ctx, s.Record.Value)
	if s.Batch.Standard {
		setStandard(m, s)
	}
	return m
}

// carried is the value of every carrier.
var carried = []byte("the records of a batch, carried by its ticket")

// NewCarrier makes the one message that stands for all records of a batch, which
// its ticket carries.
func NewCarrier(ctx context.Context) *service.Message {
	return service.NewMessageWithContext(ctx, carried)
}

// IsCarrier tells whether a batch is a carrier and nothing else, as it was made:
// with the same bytes in memory, not merely equal ones, so that nothing passes
// that something has changed, or made.
func IsCarrier(batch service.MessageBatch) bool {
	if len(batch) != 1 || batch[0].GetError() != nil {
		return false
	}
	if batch[0].MetaWalkMut(func(string, any) error { return ErrStop }) != nil {
		return false
	}
	b, err := batch[0].AsBytes()
	return err == nil && len(b) == len(carried) && &b[0] == &carried[0]
}

// Metadata is the standard metadata entry of a name, whether or not the message
// carries it; of several headers of one name the last one counts.
func (s *Source) Metadata(name string) (value any, ok bool) {
	r := s.Record
	switch name {
	case MetaKey:
		return r.Key, true
	case MetaTopic:
		return r.Topic, true
	case MetaPartition:
		return int(r.Partition), true
	case MetaOffset:
		return int(r.Offset), true
	case MetaTimestamp:
		return r.Timestamp.UnixMilli(), true
	case MetaTombstone:
		return r.Value == nil, true
	case MetaSource:
		return s.Batch.Cluster, true
	case MetaOrigin:
		return nil, false
	}
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == name {
			return headerMeta(r.Headers[i]), true
		}
	}
	return nil, false
}

// headerMeta is the metadata value of a header, as Connect's inputs set it.
func headerMeta(h kgo.RecordHeader) any {
	if h.Value == nil {
		return nil
	}
	return string(h.Value)
}

func firstOfName(hs []kgo.RecordHeader, i int) bool {
	for _, h := range hs[:i] {
		if h.Key == hs[i].Key {
			return false
		}
	}
	return true
}

// Rules say what of a changed message reaches the target record.
type Rules struct {
	// Standard: the input set standard metadata, so a missing entry means that
	// the pipeline deleted it.
	Standard bool
	// Extra selects other metadata to write as headers.
	Extra *service.MetadataFilter
	// TimestampHeader, if set, gets the source timestamp in nanoseconds, 8
	// bytes big-endian, as kaf-relay's _t.
	TimestampHeader string
}

// Fill makes dst the target record of m: value, timestamp, key and headers of
// the source record, each as far as the pipeline left it alone. Topic,
// partition and the origin header are the caller's. It appends to headers and
// returns the grown slice, so that one backing array serves a whole batch.
func (ru Rules) Fill(dst *kgo.Record, m *service.Message, src *kgo.Record, headers []kgo.RecordHeader) ([]kgo.RecordHeader, error) {
	value, err := m.AsBytes()
	if err != nil {
		return headers, err
	}
	switch {
	case len(value) > 0:
		dst.Value = value
	case src.Value != nil:
		dst.Value = []byte{} // empty is not a tombstone
	}
	dst.Timestamp = src.Timestamp
	dst.Key = ru.Key(m, src.Key)

	start := len(headers)
	for i, h := range src.Headers {
		headers = ru.appendHeader(headers, m, src.Headers, i, h)
	}
	headers = ru.appendExtra(headers, m, src.Headers)
	if ru.TimestampHeader != "" {
		headers = append(headers, ru.timestamp(src))
	}
	dst.Headers = headers[start:len(headers):len(headers)]
	return headers, nil
}

// FillBare does what Fill does for a message that nothing has changed, from the
// source record alone.
func (ru Rules) FillBare(dst, src *kgo.Record, headers []kgo.RecordHeader) []kgo.RecordHeader {
	dst.Key, dst.Value, dst.Timestamp = src.Key, src.Value, src.Timestamp
	start := len(headers)
	headers = append(headers, src.Headers...)
	if ru.TimestampHeader != "" {
		headers = append(headers, ru.timestamp(src))
	}
	dst.Headers = headers[start:len(headers):len(headers)]
	return headers
}

// Unchanged is the target record of a source record that the pipeline left
// alone, but for the origin header.
func (ru Rules) Unchanged(src *kgo.Record) *kgo.Record {
	if ru.TimestampHeader == "" {
		return src
	}
	r := *src
	r.Headers = append(r.Headers[:len(r.Headers):len(r.Headers)], ru.timestamp(src))
	return &r
}

func (ru Rules) timestamp(src *kgo.Record) kgo.RecordHeader {
	return kgo.RecordHeader{Key: ru.TimestampHeader, Value: nanos(src.Timestamp.UnixNano())}
}

// Key is the target record's: the source's, unless the pipeline changed it.
func (ru Rules) Key(m *service.Message, was []byte) []byte {
	v, ok := m.MetaGetImmut(MetaKey)
	if !ok {
		if ru.Standard {
			return nil // deleted
		}
		return was
	}
	now := metaBytes(v)
	if string(now) == string(was) && (now == nil) == (was == nil) {
		return was
	}
	return now
}

func (ru Rules) appendHeader(out []kgo.RecordHeader, m *service.Message, all []kgo.RecordHeader, i int, h kgo.RecordHeader) []kgo.RecordHeader {
	if reserved[h.Key] {
		return append(out, h)
	}
	v, ok := m.MetaGetImmut(h.Key)
	if !ok {
		if ru.Standard {
			return out // deleted
		}
		return append(out, h)
	}
	if ru.Standard && sameMeta(v, all, i) {
		return append(out, h)
	}
	if !firstOfName(all, i) {
		return out
	}
	return appendMeta(out, h.Key, v)
}

// sameMeta tells whether v is still what NewMessage set for the name at i.
func sameMeta(v any, all []kgo.RecordHeader, i int) bool {
	last := all[i]
	for _, h := range all[i+1:] {
		if h.Key == last.Key {
			last = h
		}
	}
	switch x := v.(type) {
	case string:
		return last.Value != nil && x == string(last.Value)
	case []byte:
		return last.Value != nil && string(x) == string(last.Value)
	}
	return v == nil && last.Value == nil
}

// appendMeta writes one metadata entry as a header, a list as one header each.
func appendMeta(out []kgo.RecordHeader, name string, v any) []kgo.RecordHeader {
	if list, ok := v.([]any); ok {
		for _, x := range list {
			out = append(out, kgo.RecordHeader{Key: name, Value: metaBytes(x)})
		}
		return out
	}
	return append(out, kgo.RecordHeader{Key: name, Value: metaBytes(v)})
}

// ExtraHeaders are the headers of a message that was made from no record.
func (ru Rules) ExtraHeaders(m *service.Message) []kgo.RecordHeader {
	return ru.appendExtra(nil, m, nil)
}

func (ru Rules) appendExtra(out []kgo.RecordHeader, m *service.Message, was []kgo.RecordHeader) []kgo.RecordHeader {
	if ru.Extra == nil || ru.Extra.IsEmpty() {
		return out
	}
	start := len(out)
	_ = ru.Extra.WalkMut(m, func(name string, v any) error {
		isHeader := slices.ContainsFunc(was, func(h kgo.RecordHeader) bool { return h.Key == name })
		if !reserved[name] && !isHeader {
			out = appendMeta(out, name, v)
		}
		return nil
	})
	slices.SortStableFunc(out[start:], func(a, b kgo.RecordHeader) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func metaBytes(v any) []byte {
	switch x := v.(type) {
	case []byte:
		return x
	case string:
		return []byte(x)
	case nil:
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

func nanos(n int64) []byte {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(uint64(n) >> (56 - 8*i))
	}
	return b
}
