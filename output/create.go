package output

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// demand is what a target topic must be to take what it is sent.
type demand struct {
	topic string
	// called is how messages call it.
	called string
	// partitions is the least it must have, created how many it is created with.
	partitions, created int32
	settings            kafka.Settings
	// policies are the values of cleanup.policy that its source topics have, where
	// they differ and no single one fits.
	policies []string
}

// demands puts together what the routes ask of their target topics, the largest
// of several asking for the same, and what dead letters need. settings are those
// of the source topics, as far as they are known.
func demands(topics []relay.SourceTopic, settings map[string]kafka.Settings, deadLetters string) []demand {
	var out []demand
	largest := ""
	for _, t := range topics {
		d := demandOf(t, settings[t.Route.Source])
		largest = larger(largest, d.settings[maxMessageBytes])
		i := slices.IndexFunc(out, func(o demand) bool { return o.topic == d.topic })
		if i < 0 {
			out = append(out, d)
			continue
		}
		out[i].join(t.Route.Source, d)
	}
	if deadLetters != "" {
		d := demand{topic: deadLetters, called: fmt.Sprintf("dead_letter_topic %q", deadLetters), partitions: 1, created: 1, settings: kafka.Settings{cleanupPolicy: "delete"}}
		if largest != "" { // a letter may be as large as its record
			d.settings[maxMessageBytes] = largest
		}
		out = append(out, d)
	}
	return out
}

const (
	cleanupPolicy   = "cleanup.policy"
	maxMessageBytes = "max.message.bytes"
)

// mirroredSettings names what of a source topic a created one takes over.
func mirroredSettings() string { return "`" + strings.Join(kafka.Mirrored(), "`, `") + "`" }

// demandOf is what one route asks for. Where the route does not keep partitions,
// the target may have fewer than the source; what is created has as many.
func demandOf(t relay.SourceTopic, settings kafka.Settings) demand {
	d := demand{
		topic: t.Route.Target, called: fmt.Sprintf("target topic %q (route %s)", t.Route.Target, t.Route),
		partitions: t.Partitions, created: t.Partitions, settings: kafka.Settings{},
	}
	for k, v := range settings {
		d.settings[k] = v
	}
	switch t.Route.Mode {
	case relay.FixedPartition:
		d.partitions = t.Route.Partition + 1
		d.created = max(d.created, d.partitions)
	case relay.ByKey:
		d.partitions = 1
	}
	return d
}

// join makes d hold what another route asks of the same topic as well.
func (d *demand) join(source string, o demand) {
	if o.partitions > d.partitions {
		d.partitions, d.called = o.partitions, o.called
	}
	d.created = max(d.created, o.created)
	for k, v := range o.settings {
		was, ok := d.settings[k]
		switch {
		case !ok:
			d.settings[k] = v
		case k == cleanupPolicy && was != v:
			d.policies = append(d.policies, was, v+" of "+source)
		default:
			d.settings[k] = larger(was, v)
		}
	}
}

// larger is the larger one of two numbers as settings have them, in which -1 is
// without limit; the first where they are none.
func larger(a, b string) string {
	x, err1 := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	if a == "" || (err1 == nil && err2 == nil && x >= 0 && (y < 0 || y > x)) {
		return b
	}
	return a
}

// action is what is to be done about a target topic.
type action int

const (
	nothing action = iota
	create
	grow
)

// may says what the user lets the relay make.
type may struct {
	create, grow bool
	replication  int16
}

// remedy is the action that lets a topic take what it is sent. The error says
// why there is none: a *position.Stop, with the command that helps, or something
// that may pass.
func (d demand) remedy(t kafka.Topic, may may, broker string) (action, error) {
	switch {
	case t.Missing() && may.create && len(d.policies) == 0:
		return create, nil
	case t.Missing() && len(d.policies) > 0:
		return nothing, &position.Stop{
			Reason: fmt.Sprintf("%s does not exist, and its source topics have different settings of cleanup.policy (%s)", d.called, strings.Join(d.policies, ", ")),
			Cure:   "create it with the one that fits: " + d.newTopic(may).Command(broker),
		}
	case t.Missing():
		return nothing, &position.Stop{Reason: d.called + " does not exist on the target", Cure: "create it: " + d.newTopic(may).Command(broker)}
	case t.Err != nil:
		return nothing, fmt.Errorf("target topic %q: %w", d.topic, t.Err)
	case t.Partitions < d.partitions && may.grow:
		return grow, nil
	case t.Partitions < d.partitions:
		return nothing, &position.Stop{
			Reason: fmt.Sprintf("%s has %d partitions and needs %d", d.called, t.Partitions, d.partitions),
			Cure:   "add them: " + kafka.GrowCommand(broker, d.topic, d.partitions),
		}
	case len(t.Leaderless) > 0:
		return nothing, fmt.Errorf("target partition %s/%d has no leader", d.topic, t.Leaderless[0])
	}
	return nothing, nil
}

func (d demand) newTopic(may may) kafka.NewTopic {
	return kafka.NewTopic{Name: d.topic, Partitions: d.created, Replication: may.replication, Settings: d.settings}
}

// may is what the configuration lets the output make.
func (c config) may() may {
	return may{create: c.createTopics, grow: c.createPartitions, replication: c.replication}
}

// demands asks the source for the settings of its topics only if one of the
// target's topics is to be created, or told how to.
func (b *bearing) demands(ctx context.Context) ([]demand, error) {
	deadLetters := b.out.conf.deadLetterTopic
	ds := demands(b.query.Topics, nil, deadLetters)
	if b.query.Settings == nil || !slices.ContainsFunc(ds, func(d demand) bool { return b.desc.Topics[d.topic].Missing() }) {
		return ds, nil
	}
	settings, err := b.query.Settings(ctx)
	if err != nil && b.out.conf.createTopics {
		return nil, err
	}
	return demands(b.query.Topics, settings, deadLetters), nil
}

// provide makes the topic what it is to be, as far as the relay may.
func (b *bearing) provide(ctx context.Context, d demand) error {
	may, broker := b.out.conf.may(), b.out.conf.conn.SeedBrokers[0]
	if b.out.known[d.topic] != "" { // it was there: what was relayed is gone with it
		may.create = false
	}
	act, err := d.remedy(b.desc.Topics[d.topic], may, broker)
	if err != nil || act == nothing {
		return err
	}
	var t kafka.Topic
	n := d.newTopic(may)
	if act == create {
		t, err = b.cluster.Create(ctx, n)
	} else {
		t, err = b.cluster.Grow(ctx, d.topic, d.partitions)
	}
	if err != nil {
		return d.refused(act, n, broker, err)
	}
	b.desc.Topics[d.topic] = t
	log := b.out.log.With("topic", d.topic, "partitions", t.Partitions)
	switch {
	case act == grow:
		log.Infof("Gave target topic %s partitions (create_partitions): it has %d now", d.topic, t.Partitions)
	case len(d.settings) == 0:
		log.Warnf("Created target topic %s (create_topics) with %d partitions and the target's default settings: the source does not let this relay read those of its own topic", d.topic, t.Partitions)
	default:
		log.Infof("Created target topic %s (create_topics) with %d partitions, %s", d.topic, t.Partitions, d.settings)
	}
	if act == create { // it may have been there after all, and be otherwise
		return b.provide(ctx, d)
	}
	return nil
}

// refused says what a broker has against it, and how to do it by hand.
func (d demand) refused(act action, n kafka.NewTopic, broker string, err error) error {
	doing, by := "creating", n.Command(broker)
	if act == grow {
		doing, by = "giving partitions to", kafka.GrowCommand(broker, d.topic, d.partitions)
	}
	if !kafka.Refused(err) {
		return fmt.Errorf("%s %s: %w", doing, d.called, err)
	}
	return &position.Stop{
		Reason: fmt.Sprintf("the target refuses %s %s: %v", doing, d.called, err),
		Cure:   "give this relay the right to, correct replication_factor, or do it by hand: " + by,
	}
}

// checkDeadLetters refuses a dead letter topic that cannot be one.
func (b *bearing) checkDeadLetters() error {
	name := b.out.conf.deadLetterTopic
	if name == "" || !slices.Contains(b.topics(), name) {
		return nil
	}
	return &position.Stop{Reason: fmt.Sprintf("dead_letter_topic %q is also the target of a route", name), Cure: "give dead_letter_topic another name"}
}

// checkTopics makes sure that every topic can take what it is sent.
func (b *bearing) checkTopics(ctx context.Context) error {
	if err := b.checkDeadLetters(); err != nil {
		return err
	}
	ds, err := b.demands(ctx)
	if err != nil {
		return err
	}
	for _, d := range ds {
		if err := b.provide(ctx, d); err != nil {
			return b.patient(err)
		}
		if err := b.out.checkKnown(d.topic, b.desc.Topics[d.topic].ID); err != nil {
			return err
		}
	}
	b.out.missing = 0
	if name := b.out.conf.deadLetterTopic; name != "" {
		if conf, err := b.cluster.Configs(ctx, name); err == nil && conf[name].Known {
			b.out.letterMax.Store(conf[name].MaxMessageBytes)
		}
	}
	return nil
}

// missingAfter looks in a row that miss a topic or a partition are final; a
// broker just started may not know all of them yet.
const missingAfter = 3

func (b *bearing) patient(err error) error {
	if !isStop(err) {
		return err
	}
	if b.out.missing++; b.out.missing >= missingAfter {
		return err
	}
	return errors.New(err.Error())
}
