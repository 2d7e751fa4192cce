package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The demo's proof is one that can fail: a record that is missing is an error,
// and so is a relay that never switched.
func TestProof(t *testing.T) {
	d := &demo{out: io.Discard}
	defer d.close()
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	d.left = d.dc2
	d.killed.Store(1)
	d.switched.Store(2)
	var written, copies []*kgo.Record
	for i := range 40 {
		written = append(written, order(i))
		if currencies[i%len(currencies)] == "INR" {
			c := *written[i]
			c.Headers = []kgo.RecordHeader{{Key: "_origin", Value: fmt.Appendf(nil, "r/%s/%d/%d/%d", topic, i%partitions, i/partitions, i/partitions-1)}}
			copies = append(copies, &c)
		}
	}
	if err := d.dc2.write(written); err != nil {
		t.Fatal(err)
	}
	if err := d.tgt.write(copies[:len(copies)-1]); err != nil {
		t.Fatal(err)
	}
	if err := d.prove(context.Background()); err == nil || !strings.Contains(err.Error(), "source and target differ") {
		t.Errorf("one record is missing: %v", err)
	}
	if err := d.tgt.write(copies[len(copies)-1:]); err != nil {
		t.Fatal(err)
	}
	if err := d.prove(context.Background()); err != nil {
		t.Errorf("all are there: %v", err)
	}
	d.switched.Store(0)
	if err := d.prove(context.Background()); err == nil || !strings.Contains(err.Error(), "never switched") {
		t.Errorf("without a switch: %v", err)
	}
}
