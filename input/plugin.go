package input

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/pool"
	"github.com/kafka-failover/kafka-failover/internal/position"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

// Name is what the plugin is called in configurations.
const Name = "kafka_failover"

func init() {
	service.MustRegisterBatchInput(Name, Spec(), func(p *service.ParsedConfig, res *service.Resources) (service.BatchInput, error) {
		return New(p, res)
	})
}

// Input implements service.BatchInput. Benthos calls Connect, ReadBatch and
// Close from one goroutine; acknowledgements come from others.
type Input struct {
	conf    config
	res     *service.Resources
	log     *service.Logger
	hub     *relay.Hub
	seat    *relay.Seat
	cache   *cacheTarget // nil without resume: cache
	metrics *metrics.Input
	engine  *metrics.Engine

	poolMetrics *metrics.Pool
	pool        *pool.Monitor // nil before the first Connect, and after the end
	unfit       []*unfit      // by source: what was last found out about it
	gen         *relay.Generation
	reader      *reader // nil while nothing is read
	stopAt      map[position.TP]int64
	progress    *relay.Progress // with stop_at_end, once it has begun

	said  string    // the reason Connect returned last
	fails int       // attempts to connect that failed in a row
	short int       // generations in a row that were broken soon
	began time.Time // when the last one began

	// While nothing is read, and the source is to blame: where to read on, why
	// and when reading ended.
	next  []int64
	cause error
	left  time.Time
	last  int // the source read last, -1 before the first
	// ended is how often in a row reading ended soon after it began, on endedOn.
	ended, endedOn int
	// refused is how often in a row refusedBy left questions unanswered before
	// it was read.
	refused, refusedBy int
	// partitions is how many each source topic had when it was first relayed.
	partitions map[string]int32
	// routes are what is relayed, and selection how it was found, where
	// regexp_topics_include is set; nil before the first look.
	routes    []relay.Route
	selection relay.Selection
	// before are the topics that matched before this process, by their marks.
	before []string
	// closing are readers that were left and have not closed yet.
	closing sync.WaitGroup
	gauges  gauges
}

// New builds the input. It opens nothing: Benthos builds inputs that it never
// runs.
func New(p *service.ParsedConfig, res *service.Resources) (*Input, error) {
	conf, err := parse(p, res.Logger())
	if err != nil {
		return nil, err
	}
	hub := relay.Join(res, conf.relay)
	in := &Input{
		conf: conf, res: res, log: res.Logger(), hub: hub, last: -1, unfit: make([]*unfit, len(conf.sources)),
		metrics: metrics.NewInput(res.Metrics()), engine: metrics.NewEngineInput(res.Metrics()), poolMetrics: metrics.NewPool(res.Metrics()),
	}
	if conf.resume == position.ResumeCache {
		if in.cache, err = newCacheTarget(conf, res); err != nil {
			return nil, err
		}
	}
	in.seat = hub.AnnounceInput(in.exits())
	return in, nil
}

// Connect is the one recovery path: at boot, after a failed write and after
// trouble with the source it finds where to go on and begins there. It also
// carries readiness for source and target: it returns each reason once, which
// logs it and makes /ready answer 503 with it, and otherwise works until it is
// ready or ctx ends.
func (in *Input) Connect(ctx context.Context) error {
	in.ready(false)
	for {
		if err := in.final(ctx); err != nil {
			return err
		}
		err := in.connect(ctx)
		if err == nil {
			in.said, in.fails = "", 0
			in.ready(true)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if news := (reason{}); !errors.As(err, &news) {
			in.judge(err)
		}
		if in.hub.Fatal() == nil && in.say(err) {
			return err
		}
		if err := in.rest(ctx, err); err != nil {
			return err
		}
	}
}

// ready shows readiness, unless a later input shows its own.
func (in *Input) ready(is bool) {
	if !in.seat.Superseded() {
		in.metrics.Ready(is)
	}
}

// rest waits before the next attempt, or until a source can be read if that is
// what was missing. Sources that are short may catch up any moment.
func (in *Input) rest(ctx context.Context, err error) error {
	if !errors.Is(err, pool.ErrNoHealthy) || in.hub.Fatal() != nil {
		return sleep(ctx, in.pause())
	}
	enough := time.NewTimer(in.pause())
	defer enough.Stop()
	for {
		changed := in.pool.Changed()
		if d, outlook := in.pool.Decide(); d.To >= 0 || outlook != pool.Wait {
			return nil
		}
		for i, s := range in.pool.Status() {
			if s.State == pool.Short {
				in.pool.Alarm(i)
			}
		}
		select {
		case <-changed:
		case <-enough.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reason is an error that says why Connect has work to do, before it begins
// with it.
type reason struct{ error }

// say tells whether the reason is a new one, to be returned.
func (in *Input) say(err error) bool {
	if in.hasSaid(err) {
		return false
	}
	in.said = err.Error()
	return true
}

// hasSaid compares texts but for their numbers: ports and offsets vary from one
// attempt to the next.
func (in *Input) hasSaid(err error) bool {
	return in.said != "" && withoutDigits(err.Error()) == withoutDigits(in.said)
}

func withoutDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// judge makes a stop, and the last of the permitted retries, fatal.
func (in *Input) judge(err error) {
	in.fails++
	var stop *position.Stop
	if errors.As(err, &stop) {
		in.fatal(err)
	} else if in.conf.retry.max >= 0 && in.fails > in.conf.retry.max {
		in.fatal(fmt.Errorf("gave up after %d attempts (retry.max_retries): %w", in.fails, err))
	}
}

func (in *Input) fatal(err error) {
	in.seat.Fail(err)
}

// exits tells whether a fatal error ends the process.
func (in *Input) exits() bool { return in.conf.exitOnFatal || in.conf.stopAtEnd }

// pause is the wait before the next attempt.
func (in *Input) pause() time.Duration {
	if in.hub.Fatal() != nil {
		return 0
	}
	return backoff(in.conf.retry, in.fails)
}

func backoff(r retry, fails int) time.Duration {
	d := r.first
	for range min(fails-1, 32) {
		if d *= 2; d >= r.longest {
			break
		}
	}
	return min(d, r.longest)
}

// final answers Connect once nothing more will be read: the reason once, then
// the end of the input, or silence with on_fatal: stop.
func (in *Input) final(ctx context.Context) error {
	err := in.hub.Fatal()
	if err == nil && in.seat.Superseded() {
		err = errSuperseded
		if in.gen == nil { // not a reload: it never began
			in.seat.FailUnused(err, in.exits())
		}
	}
	switch {
	case err == nil:
		return nil
	case in.say(err):
		in.stop()
		return err
	case in.exits():
		return service.ErrEndOfInput
	}
	<-ctx.Done()
	return ctx.Err()
}

var errSuperseded = errors.New("another kafka_failover input has taken this one's place: give each pair of input and output a `relay` name of its own in this process")

func (in *Input) connect(ctx context.Context) error {
	if in.cache != nil && in.hub.HasOutput() {
		return errCacheBesideOutput
	}
	if err := in.startPool(); err != nil {
		return err
	}
	if in.gen != nil && in.gen.Broken() == nil {
		return in.goOn(ctx)
	}
	if in.gen != nil {
		if err := in.windDown(ctx); err != nil {
			return err
		}
	}
	err := in.onSource(ctx, in.begin)
	if errors.Is(err, errGone) {
		return in.connect(ctx)
	}
	return err
}

// goOn reads on within the generation: nothing written was lost, but the
// target or the source was out of reach.
func (in *Input) goOn(ctx context.Context) error {
	if down := in.gen.Down(); down != nil {
		if !in.hasSaid(down) {
			return reason{down}
		}
		if err := in.gen.AwaitUp(ctx); err != nil {
			return err
		}
		if in.gen.Broken() != nil {
			return in.connect(ctx)
		}
	}
	if in.reader != nil && in.reader.failure() == nil {
		return nil
	}
	in.leave()
	if regroups(in.cause) {
		if _, err := in.retire(ctx); err != nil {
			return err
		}
		return in.connect(ctx)
	}
	if err := in.pauseBetweenEnds(ctx); err != nil {
		return err
	}
	err := in.onSource(ctx, in.resume)
	if errors.Is(err, errGone) {
		in.cause = err
		return in.connect(ctx)
	}
	return err
}

// windDown ends a broken generation: reading stops, and everything under way
// ends by itself. The reason is returned once, as an error; generations that
// break soon after they began are followed by a pause that grows.
func (in *Input) windDown(ctx context.Context) error {
	in.leave()
	if err := in.gen.Broken(); !in.hasSaid(err) {
		return reason{err}
	}
	if err := in.gen.Drained(ctx); err != nil {
		return err
	}
	if in.lasted() {
		in.short = 0
	}
	in.short++
	if err := in.refusedForGood(); err != nil {
		return err
	}
	if in.short > 2 { // a refusal is looked into twice at once
		if err := sleep(ctx, backoff(in.conf.retry, in.short-2)); err != nil {
			return err
		}
	}
	in.gen, in.next = nil, nil
	return nil
}

// ReadBatch returns the next batch. It returns ErrNotConnected whenever Connect
// has work to do, and ErrEndOfInput when stop_at_end is fulfilled: everything
// acknowledged.
func (in *Input) ReadBatch(ctx context.Context) (service.MessageBatch, service.AckFunc, error) {
	if in.reader == nil || in.hub.Fatal() != nil || in.seat.Superseded() {
		return nil, nil, service.ErrNotConnected
	}
	batch, ticket, err := in.reader.next(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case errors.Is(err, errAtEnd):
		return in.end(ctx)
	case err != nil:
		in.log.Debugf("Reading pauses: %v", err)
		return nil, nil, service.ErrNotConnected
	}
	return batch, func(_ context.Context, err error) error {
		if missing := ticket.Ack(err); missing > 0 {
			in.metrics.ByPipeline(missing)
		}
		return nil
	}, nil
}

// end waits until all that was read is acknowledged.
func (in *Input) end(ctx context.Context) (service.MessageBatch, service.AckFunc, error) {
	ok, err := in.gen.DrainedOrTrouble(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, service.ErrNotConnected
	}
	in.report()
	return nil, nil, service.ErrEndOfInput
}

// report tells of each topic what a bounded run has relayed.
func (in *Input) report() {
	in.progress.End()
	took := in.progress.Took()
	for _, t := range in.progress.Topics() {
		in.log.With("topic", t.Topic, "records", t.Read, "offsets", t.Done, "duration", took.Round(time.Millisecond).String()).
			Infof("Reached the end of topic %s: %d records read in %s (%.0f records/s)", t.Topic, t.Read, took.Round(time.Millisecond), float64(t.Read)/took.Seconds())
	}
}

// stop ends reading and probing.
func (in *Input) stop() {
	if in.reader != nil {
		in.reader.close()
		in.reader = nil
	}
	in.closing.Wait()
	in.gauges.stop()
	if in.pool != nil {
		in.pool.Close()
		in.pool = nil
	}
}

// Close ends reading. What is under way in the pipeline was waited for before.
func (in *Input) Close(ctx context.Context) error {
	in.ready(false)
	in.stop()
	if in.cache != nil {
		in.cache.close(ctx)
	}
	in.seat.Leave()
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
