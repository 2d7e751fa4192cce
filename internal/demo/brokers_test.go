package demo

import (
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A broker that is killed while it is written to is not waited for: an idempotent
// client would, since it cannot know what has become of the write.
func TestWriteEndsWithTheBroker(t *testing.T) {
	b, err := startBroker("dc1")
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	began := make(chan struct{})
	once := sync.OnceFunc(func() { close(began) })
	b.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		once()
		return nil, nil, true // it never answers
	})
	done := make(chan error, 1)
	go func() { done <- b.write([]*kgo.Record{order(0)}) }()
	<-began
	b.kill()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the write does not end")
	}
}
