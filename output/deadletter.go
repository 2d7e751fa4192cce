package output

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redpanda-data/benthos/v4/public/bloblang"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/record"
)

// Headers of a dead letter, behind those of its source record and _origin.
const (
	letterError     = "_dead_letter_error"
	letterComponent = "_dead_letter_component"
	// letterTimestamp is the source's, in milliseconds: the letter itself has the
	// time of its writing, since a bad timestamp may be what it is dead for, and
	// an old one would have retention take it at once.
	letterTimestamp = "_dead_letter_timestamp_ms"
	// letterOmitted is how many bytes the value had, where it was too large to be
	// written again.
	letterOmitted = "_dead_letter_omitted_bytes"
)

// errTooLarge is why a record is not even tried.
var errTooLarge = errors.New("too large")

// failedIn names the component that a message failed in.
var failedIn = func() *bloblang.Executor {
	e, err := bloblang.Parse(`root = [ error_source_label(), error_source_name(), error_source_path() ].map_each(this.or("")).filter(this != "").join(" ")`)
	if err != nil {
		panic(err)
	}
	return e
}()

// componentOf is the label, name and path, as far as they are noted, of the
// component that failed; empty if none did.
func componentOf(m *service.Message, src *record.Source) string {
	switch {
	case m == nil && src.Failed != nil:
		return src.Failed.Component
	case m == nil || m.GetError() == nil:
		return ""
	}
	v, err := m.BloblangQueryValue(failedIn)
	text, _ := v.(string)
	if err != nil || text == "" {
		return "pipeline"
	}
	return text
}

// deadLetters writes what must not be relayed to the dead letter topic and waits
// until it stands there, within a turn and before anything behind it is handed
// over. So the letters of a source partition stand in its order; and whoever
// finds, after a crash, a record that comes behind one of them knows that the
// letter is written: positions pass it as they pass a filtered record.
func (s *session) deadLetters(ctx context.Context, dead []*badMessage) error {
	if len(dead) == 0 {
		return nil
	}
	topic := s.out.conf.deadLetterTopic
	partitions, err := s.partitionsOf(topic)
	if ask := (askError{}); errors.As(err, &ask) || isStop(err) {
		return err
	}
	if err != nil {
		return s.noLetters(dead[0], err)
	}
	letters := make([]kgo.Record, 0, len(dead))
	size, first := 0, 0
	write := func() error {
		err := s.produceAll(ctx, letters)
		if liesInRecord(err) {
			return s.noLetters(dead[first], err)
		} else if err != nil {
			return fmt.Errorf("writing to dead_letter_topic %q: %w", topic, err)
		}
		letters, size = letters[:0], 0
		return nil
	}
	for i, bad := range dead { // as many at a time as the topic takes in one batch
		l := s.letter(bad, topic, partitions)
		n := letterSize(&l)
		if size > 0 && size+n > s.out.letterLimit() {
			if err := write(); err != nil {
				return err
			}
			first = i
		}
		letters, size = append(letters, l), size+n
	}
	if err := write(); err != nil {
		return err
	}
	for _, bad := range dead {
		s.out.noteLeftOut(bad)
	}
	return nil
}

// letterLimit is how large a batch of letters may be.
func (o *Output) letterLimit() int {
	limit := int(o.conf.producer.MaxMessageBytes)
	if n := int(o.letterMax.Load()); n > 0 {
		limit = min(limit, n)
	}
	return limit
}

// letterSize is not less than what a letter takes in a batch of its own.
func letterSize(r *kgo.Record) int {
	const batchAndRecord, perHeader = 160, 10
	n := batchAndRecord + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += perHeader + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// longestError bounds what a letter quotes: an error may quote the document.
const longestError = 1024

// noLetters stops the relay where dead letters cannot be written.
func (s *session) noLetters(bad *badMessage, err error) error {
	topic := s.out.conf.deadLetterTopic
	return &position.Stop{
		Reason: fmt.Sprintf("stopped at %v; dead_letter_topic %q does not take it: %v", bad, topic, err),
		Cure:   "mend the topic (cleanup.policy=delete; key, headers and 2 KiB must fit into its max.message.bytes and the output's max_message_bytes) and restart",
	}
}

// letter is the source record as it was read, with what befell it.
func (s *session) letter(bad *badMessage, topic string, partitions int) kgo.Record {
	src := bad.source.Record
	r := kgo.Record{Topic: topic, Partition: src.Partition % int32(partitions), Key: src.Key, Value: src.Value, Timestamp: time.Now()}
	r.Headers = append(r.Headers, src.Headers...)
	if s.gen.OriginHeader != "" { // it names itself before it, and proves nothing
		prefix := record.AppendPrefix(nil, s.gen.RelayID, src.Topic, src.Partition)
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: s.gen.OriginHeader, Value: record.AppendOffsets(prefix, src.Offset, src.Offset)})
	}
	add := func(name, value string) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	add(letterError, strings.ToValidUTF8(bad.err.Error()[:min(len(bad.err.Error()), longestError)], ""))
	add(letterComponent, cmp.Or(bad.component, s.out.name))
	add(letterTimestamp, strconv.FormatInt(src.Timestamp.UnixMilli(), 10))
	if letterSize(&r) > s.out.letterLimit() || tooLarge(bad.err) {
		add(letterOmitted, strconv.Itoa(len(src.Value)))
		r.Value = nil
	}
	return r
}

// tooLarge tells whether a record was refused for its size: its letter would be
// larger still.
func tooLarge(err error) bool {
	return slices.ContainsFunc([]error{errTooLarge, kerr.MessageTooLarge, kerr.RecordListTooLarge}, func(e error) bool { return errors.Is(err, e) })
}
