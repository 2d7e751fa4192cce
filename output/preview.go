package output

import (
	"context"
	"errors"

	"github.com/dustin/go-humanize"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/position/progress"
	"github.com/kafka-failover/kafka-failover/internal/preflight"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

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
	if err := p.each(ctx, p.introduce, p.refuse, p.checkTopics, p.checkDelivery); err != nil || p.Found.Failed() {
		return p.Preview, err
	}
	steps := []func(context.Context) error{p.layOut, p.loadMarks, p.listOffsets, p.gather, p.readSuffix}
	if q.MarksOnly {
		steps = []func(context.Context) error{p.layOut, p.loadMarks, p.listEnds, p.gather}
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
	p.Found.AddConnection(preflight.OnTarget, p.out.conf.conn, p.desc.ClusterID)
	if !p.query.MarksOnly {
		p.Topics, err = p.cluster.Configs(ctx, p.allTopics()...)
	}
	return err
}

// listEnds lists the ends as they are, open transactions or not.
func (p *preview) listEnds(ctx context.Context) (err error) {
	if p.starts, err = p.cluster.Offsets(ctx, kafka.LogStart, p.made()...); err == nil {
		p.ends, err = p.cluster.Offsets(ctx, kafka.HighWatermark, p.made()...)
	}
	return err
}

// checkTopics tells of each target topic whether it can take what it is sent, or
// what a start would make of it; from there on the preview goes by that.
func (p *preview) checkTopics(ctx context.Context) error {
	ds, err := p.demands(ctx)
	if err != nil {
		return err
	}
	if err := p.checkDeadLetters(); err != nil {
		p.Found.Add(preflight.Fail, preflight.OnTarget, "dead letters", "%v", err)
	}
	for _, d := range ds {
		p.checkTopic(d)
	}
	return nil
}

func (p *preview) checkTopic(d demand) {
	add := func(level preflight.Level, format string, args ...any) {
		p.Found.Add(level, preflight.OnTarget, "topic "+d.topic, format, args...)
	}
	switch act, err := d.remedy(p.desc.Topics[d.topic], p.out.conf.may(), p.out.conf.conn.SeedBrokers[0]); {
	case err != nil:
		add(preflight.Fail, "%v", err)
	case act == create:
		p.desc.Topics[d.topic] = kafka.Topic{Partitions: d.created}
		p.unmade = append(p.unmade, d.topic)
		add(preflight.OK, "does not exist yet; create_topics: the relay creates it at its start with %d partitions, %s", d.created, d.settings)
	case act == grow:
		t := p.desc.Topics[d.topic]
		add(preflight.OK, "has %d partitions; create_partitions: the relay gives it %d at its start", t.Partitions, d.partitions)
		t.Partitions = d.partitions
		p.desc.Topics[d.topic] = t
	default:
		p.describeTopic(d.topic, add)
	}
}

// describeTopic tells of a topic that is there.
func (p *preview) describeTopic(name string, add func(preflight.Level, string, ...any)) {
	conf := p.Topics[name]
	add(preflight.OK, "%s", conf.Describe(p.desc.Topics[name].Partitions))
	if name == p.out.conf.deadLetterTopic {
		return
	}
	if conf.Known && p.MaxMessageBytes > conf.MaxMessageBytes {
		add(preflight.Warn, "max_message_bytes of the output is %s and max.message.bytes of the topic %s: batches between the two would be refused; make them equal",
			humanize.IBytes(uint64(p.MaxMessageBytes)), humanize.IBytes(uint64(conf.MaxMessageBytes)))
	}
	if conf.LogAppendTime {
		add(preflight.Warn, "message.timestamp.type=LogAppendTime: the target puts its own time in place of the records' timestamps")
	}
}

// checkDelivery tells whether the target can take transactions, if they are
// asked for. It does not become their producer: that would end a relay that runs.
func (p *preview) checkDelivery(ctx context.Context) error {
	conf := &p.out.conf
	if !conf.exactly || p.query.MarksOnly {
		return nil
	}
	add := func(level preflight.Level, format string, args ...any) {
		p.Found.Add(level, preflight.OnTarget, "delivery", format, args...)
	}
	err := p.checkTransactions(ctx)
	if isStop(err) {
		add(preflight.Fail, "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	id := conf.producer.TransactionalID
	described, err := p.cluster.Admin.DescribeTransactions(ctx, id)
	if err == nil {
		err = described[id].Err
	}
	if errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
		add(preflight.Fail, "%v", p.out.explainFence(conf.producer, err))
		return nil
	}
	if conf.producer.TransactionTimeout > p.cluster.LongestTransaction(ctx) {
		add(preflight.Fail, "%v", p.out.explainFence(conf.producer, kerr.InvalidTransactionTimeout))
		return nil
	}
	add(preflight.OK, "exactly_once: transaction.version %d, transactional.id %s", transactionVersion, id)
	return nil
}

// loadMarks reads the marks, if there are any yet, and tells of them.
func (p *preview) loadMarks(ctx context.Context) (err error) {
	name := p.out.conf.progressTopic
	if p.query.Resume == position.ResumeWatermark {
		p.Found.Add(preflight.OK, preflight.OnTarget, "progress", "resume: watermark keeps none")
		return nil
	}
	p.progress, err = p.out.existingProgress(ctx, p.cluster)
	if err == nil && p.progress == nil {
		p.Found.Add(preflight.OK, preflight.OnTarget, "progress", "topic %s does not exist yet; the relay creates it at its first start", name)
		return nil
	}
	if err != nil {
		return err
	}
	if p.query.MarksOnly {
		p.marks, err = p.progress.Load(ctx)
	} else {
		err = p.readMarks(ctx)
	}
	if err != nil {
		return err
	}
	marked := 0
	for _, k := range p.keys {
		if _, ok := p.marks[k]; ok {
			marked++
		}
	}
	p.Found.Add(preflight.OK, preflight.OnTarget, "progress", "topic %s holds marks of %d of %d source partitions under relay_id %s", name, marked, len(p.keys), p.standing.RelayID)
	return nil
}

// existingProgress opens the progress topic; nil if the first start is still to
// create it.
func (o *Output) existingProgress(ctx context.Context, c *kafka.Cluster) (*progress.Topic, error) {
	t, err := progress.Open(ctx, c, o.conf.progressTopic, 0, false)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil
	}
	return t, err
}

// Marks implements relay.Target.
func (o *Output) Marks(ctx context.Context, s relay.Selection) ([]relay.MarkedPart, error) {
	c, err := o.conf.conn.Admin()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	d, err := c.Describe(ctx)
	if err != nil {
		return nil, err
	}
	t, err := o.existingProgress(ctx, c)
	if err != nil || t == nil {
		return nil, err
	}
	marks, err := t.Load(ctx)
	if err != nil {
		return nil, err
	}
	id := o.conf.relayID
	if id == "" {
		id = d.ClusterID
	}
	var out []relay.MarkedPart
	for k, e := range marks {
		if r, ok := s.Route(k.Source.Topic); ok && k.RelayID == id && k.Target == r.Target {
			out = append(out, relay.MarkedPart{Source: k.Source, Route: r, Next: e.Mark.Next})
		}
	}
	relay.SortMarked(out)
	return out, nil
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
	_, err = o.existingProgress(ctx, c)
	return err
}
