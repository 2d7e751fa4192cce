package output

import (
	"context"
	"errors"

	"github.com/dustin/go-humanize"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/progress"
	"github.com/kafka-failover/kafka-failover/internal/preflight"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// onTarget is the subject of findings about the target.
const onTarget = "target"

// preview takes a bearing as an onlooker does: it writes, creates and claims
// nothing, and tells what it finds.
type preview struct {
	bearing
	*relay.Preview
}

// Preview implements relay.Target.
func (o *Output) Preview(ctx context.Context, q relay.Query) (*relay.Preview, error) {
	p := preview{Preview: &relay.Preview{MaxMessageBytes: int64(o.conf.producer.MaxMessageBytes)}}
	if err := o.forOthers(); err != nil {
		return p.Preview, err
	}
	c, err := o.conf.conn.Admin()
	if err != nil {
		return p.Preview, err
	}
	defer c.Close()
	p.bearing = bearing{out: o, cluster: c, query: q}
	if err := p.each(ctx, p.introduce, p.checkTopics); err != nil || p.Found.Failed() {
		return p.Preview, err
	}
	steps := []func(context.Context) error{p.layOut, p.loadMarks, p.listOffsets, p.gather}
	if !q.MarksOnly {
		steps = append(steps, p.readSuffix)
	}
	if err := p.each(ctx, steps...); err != nil {
		return p.Preview, o.Explain(err, p.keys)
	}
	p.Standing = p.standing
	return p.Preview, nil
}

// introduce tells who the target is.
func (p *preview) introduce(ctx context.Context) (err error) {
	if err := p.describe(ctx); err != nil {
		return err
	}
	conn := p.out.conf.conn
	p.Found.Add(preflight.OK, onTarget, "connection", "%s, cluster ID %s", conn.Security(), p.desc.ClusterID)
	p.Topics, err = p.cluster.Configs(ctx, p.topics()...)
	return err
}

// checkTopics tells of each route whether its target topic can take it.
func (p *preview) checkTopics(context.Context) error {
	told := map[string]bool{}
	for _, t := range p.query.Topics {
		name := t.Route.Target
		if err := p.checkTopic(t); err != nil {
			p.Found.Add(preflight.Fail, onTarget, "topic "+name, "%v", err)
			continue
		}
		if told[name] {
			continue
		}
		told[name] = true
		conf := p.Topics[name]
		p.Found.Add(preflight.OK, onTarget, "topic "+name, "%s", conf.Describe(p.desc.Topics[name].Partitions))
		if conf.Known && p.MaxMessageBytes > conf.MaxMessageBytes {
			p.Found.Add(preflight.Warn, onTarget, "topic "+name, "max_message_bytes of the output is %s and max.message.bytes of the topic %s: batches between the two would be refused; make them equal",
				humanize.IBytes(uint64(p.MaxMessageBytes)), humanize.IBytes(uint64(conf.MaxMessageBytes)))
		}
		if conf.LogAppendTime {
			p.Found.Add(preflight.Warn, onTarget, "topic "+name, "message.timestamp.type=LogAppendTime: the target puts its own time in place of the records' timestamps")
		}
	}
	return nil
}

// loadMarks reads the marks, if there are any yet, and tells of them.
func (p *preview) loadMarks(ctx context.Context) (err error) {
	name := p.out.conf.progressTopic
	if p.query.Resume == position.ResumeWatermark {
		p.Found.Add(preflight.OK, onTarget, "progress", "resume: watermark keeps none")
		return nil
	}
	p.progress, err = progress.Open(ctx, p.cluster, name, 0, false)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		p.Found.Add(preflight.OK, onTarget, "progress", "topic %s does not exist yet; the relay creates it at its first start", name)
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.readMarks(ctx); err != nil {
		return err
	}
	marked := 0
	for _, k := range p.keys {
		if _, ok := p.marks[k]; ok {
			marked++
		}
	}
	p.Found.Add(preflight.OK, onTarget, "progress", "topic %s holds marks of %d of %d source partitions under relay_id %s", name, marked, len(p.keys), p.standing.RelayID)
	return nil
}

// ConnectionTest tells whether the target can be reached, and whether its
// progress topic can keep marks. What depends on the sources the input's test
// tells.
func (o *Output) ConnectionTest(ctx context.Context) service.ConnectionTestResults {
	if err := o.testConnection(ctx); err != nil {
		return service.ConnectionTestFailed(err).AsList()
	}
	return service.ConnectionTestSucceeded().AsList()
}

func (o *Output) testConnection(ctx context.Context) error {
	c, err := o.conf.conn.Admin()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Describe(ctx); err != nil || o.paired() == nil {
		return err
	}
	_, err = progress.Open(ctx, c, o.conf.progressTopic, 0, false)
	if errors.Is(err, kerr.UnknownTopicOrPartition) { // the first start creates it
		return nil
	}
	return err
}
