package output

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
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
	letters := make([]kgo.Record, len(dead))
	for i, bad := range dead {
		letters[i] = s.letter(bad, topic, partitions)
	}
	if err := s.produceAll(ctx, letters); liesInRecord(err) {
		s.out.countRefused(err)
		return s.noLetters(dead[0], err)
	} else if err != nil {
		s.out.countRefused(err)
		return fmt.Errorf("writing to dead_letter_topic %q: %w", topic, err)
	}
	for _, bad := range dead {
		s.out.noteLeftOut(bad)
	}
	return nil
}

// noLetters stops the relay where dead letters cannot be written.
func (s *session) noLetters(bad *badMessage, err error) error {
	topic := s.out.conf.deadLetterTopic
	return &position.Stop{
		Reason: fmt.Sprintf("stopped at %v; dead_letter_topic %q does not take it: %v", bad, topic, err),
		Cure:   "mend the topic (cleanup.policy=delete, a max.message.bytes no smaller than the source's) and restart",
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
	add(letterError, bad.err.Error())
	add(letterComponent, cmp.Or(bad.component, s.out.name))
	add(letterTimestamp, strconv.FormatInt(src.Timestamp.UnixMilli(), 10))
	for _, e := range []error{errTooLarge, kerr.MessageTooLarge, kerr.RecordListTooLarge} {
		if errors.Is(bad.err, e) {
			add(letterOmitted, strconv.Itoa(len(src.Value)))
			r.Value = nil
			break
		}
	}
	return r
}
