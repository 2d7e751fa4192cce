package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/metrics"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

// Sentinels for programs that embed the relay; errors of this package and of
// the input wrap them.
var (
	// ErrNoHealthy: no source can be read.
	ErrNoHealthy = errors.New("no healthy source")
	// ErrLaggingBehind: the source that was read is behind another one by more
	// than health.lag_threshold.
	ErrLaggingBehind = errors.New("the source lags behind")
)

// Config of a Monitor.
type Config struct {
	Settings
	// Timeout of a probe; three times as long until a source has first
	// answered.
	Timeout time.Duration
	Sources []kafka.Conn
	// Topics of the relay, and the end up to which it reads them.
	Topics []string
	End    kafka.Bound
	// Order of preference of the first choice: indexes of Sources.
	Order   []int
	Log     *service.Logger
	Metrics *metrics.Pool
}

// Monitor probes every source, each with a client and a deadline of its own,
// and owns their Pool. All methods may be called from any goroutine.
type Monitor struct {
	conf    Config
	began   time.Time
	probers []*kafka.Cluster
	alarms  []chan struct{}
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	pool    *Pool
	seen    []*kafka.Description // by source, of the last good probe
	reports []int                // by source: probes that have ended
	changed chan struct{}        // closed and replaced at each report
	edition int                  // of conf.Topics
}

// NewMonitor makes a monitor; nothing is connected before Start.
func NewMonitor(conf Config) *Monitor {
	names := make([]string, len(conf.Sources))
	for i, c := range conf.Sources {
		names[i] = c.Name
	}
	return &Monitor{
		conf: conf, pool: New(conf.Settings, names, conf.Order),
		seen: make([]*kafka.Description, len(names)), reports: make([]int, len(names)), changed: make(chan struct{}),
	}
}

// Start begins to probe.
func (m *Monitor) Start() error {
	m.began = time.Now()
	for i, c := range m.conf.Sources {
		m.conf.Metrics.Begin(c.Name, stateNames[:]...)
		c.Events = &kafka.Events{Connected: m.connected(i), Failed: m.connectionFailed(i), Lost: func() { m.Alarm(i) }}
		p, err := c.Prober(3 * m.conf.Timeout)
		if err != nil {
			m.Close()
			return err
		}
		m.probers = append(m.probers, p)
		m.alarms = append(m.alarms, make(chan struct{}, 1))
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	for i := range m.probers {
		m.running.Go(func() { m.watch(ctx, i) })
	}
	return nil
}

// Close ends probing.
func (m *Monitor) Close() {
	if m.cancel != nil {
		m.cancel()
	}
	m.running.Wait()
	for _, p := range m.probers {
		p.Close()
	}
	m.probers = nil
}

// Conn is how to reach source i, for a client that reads it: its trouble with
// connections has the source probed at once.
func (m *Monitor) Conn(i int) kafka.Conn {
	c := m.conf.Sources[i]
	failed := m.connectionFailed(i)
	c.Events = &kafka.Events{
		Connected: m.connected(i),
		Failed:    func(err error) { failed(err); m.Alarm(i) },
		Lost:      func() { m.Alarm(i) },
	}
	return c
}

// SetTopics has other topics probed from now on, at once.
func (m *Monitor) SetTopics(topics []string) {
	m.mu.Lock()
	changed := !slices.Equal(m.conf.Topics, topics)
	if changed {
		m.conf.Topics = topics
		m.edition++
		m.pool.Keep(topics)
	}
	m.mu.Unlock()
	if changed {
		for i := range m.alarms {
			m.Alarm(i)
		}
	}
}

func (m *Monitor) connected(i int) func() {
	return func() { m.conf.Metrics.Connected(m.conf.Sources[i].Name) }
}

func (m *Monitor) connectionFailed(i int) func(error) {
	return func(err error) {
		if !errors.Is(err, context.Canceled) {
			m.conf.Metrics.ConnectionFailed(m.conf.Sources[i].Name)
		}
	}
}

// Alarm has source i probed at once, but not within probeGap of its last probe.
func (m *Monitor) Alarm(i int) {
	select {
	case m.alarms[i] <- struct{}{}:
	default:
	}
}

// probeGap is the least time between the beginnings of two probes.
const probeGap = 100 * time.Millisecond

// watch probes source i at every tick that all sources share, at once when
// there is an alarm, and again at once while failed probes have not decided yet.
func (m *Monitor) watch(ctx context.Context, i int) {
	patience := 3 * m.conf.Timeout
	for {
		at := time.Now()
		answered, settled := m.probe(ctx, i, patience)
		if answered {
			patience = m.conf.Timeout
		}
		wait := m.conf.Interval - time.Since(m.began)%m.conf.Interval
		if !settled {
			wait = min(wait, probeGap)
		}
		tick := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-m.alarms[i]:
		}
		tick.Stop()
		gap := time.NewTimer(probeGap - time.Since(at))
		select {
		case <-ctx.Done():
			gap.Stop()
			return
		case <-gap.C:
		}
	}
}

// probe looks at source i once. It tells whether the source answered, and
// whether its state is settled.
func (m *Monitor) probe(ctx context.Context, i int, patience time.Duration) (answered, settled bool) {
	at := time.Since(m.began)
	pctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.mu.Lock()
	topics, edition := m.conf.Topics, m.edition
	m.mu.Unlock()
	d, ends, err := m.probers[i].Look(pctx, m.conf.End, topics...)
	if ctx.Err() != nil {
		return false, true
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%s (%s) gives no answer within %s: %w", m.conf.Sources[i].Name, strings.Join(m.conf.Sources[i].SeedBrokers, ","), patience, err)
	}
	missing := (*kafka.MissingTopicError)(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	if edition != m.edition { // it tells of other topics
		return d != nil, false
	}
	m.reports[i]++
	lagged := m.pool.Lags(i)
	if err == nil {
		m.seen[i] = d
		m.note(m.pool.Good(i, at, ends))
		m.conf.Metrics.Ends(m.conf.Sources[i].Name, Ends(ends).Sum(), m.pool.sources[i].lag)
	} else {
		m.note(m.pool.Bad(i, at, err, errors.As(err, &missing)))
	}
	if !lagged && m.pool.Lags(i) {
		m.conf.Metrics.Lagging(m.conf.Sources[i].Name)
		m.conf.Log.With("source", m.conf.Sources[i].Name, "records", m.pool.sources[i].lag).Warnf("Source %s lags behind the best one by more than lag_threshold", m.conf.Sources[i].Name)
	}
	m.wake()
	return d != nil, m.pool.Settled(i)
}

// wake tells whoever waits that there is a new report. It must be called under
// the lock, as note.
func (m *Monitor) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// note logs and counts a change of state, once.
func (m *Monitor) note(c *Change) {
	if c == nil {
		return
	}
	m.conf.Metrics.Changed(c.Name, c.From.String(), c.To.String())
	log := m.conf.Log.With("source", c.Name, "from", c.From.String(), "to", c.To.String())
	switch {
	case c.To == Diverged:
		log.Errorf("Source %s is quarantined: %v", c.Name, c.Why)
	case c.To != Healthy:
		log.Warnf("Source %s is %s: %v", c.Name, c.To, c.Why)
	case c.From == Unknown:
		log.Infof("Source %s is healthy", c.Name)
	default:
		log.Infof("Source %s is healthy again", c.Name)
	}
}

// Recheck has source i probed and tells whether it is still the one to read,
// once its state is settled.
func (m *Monitor) Recheck(ctx context.Context, i int) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*m.conf.Timeout)
	defer cancel()
	m.mu.Lock()
	before := m.reports[i]
	m.mu.Unlock()
	m.Alarm(i)
	for {
		m.mu.Lock()
		changed, done := m.changed, m.reports[i] > before && m.pool.Settled(i)
		m.mu.Unlock()
		if !done {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
		}
		d, _ := m.Decide()
		return d.To == i
	}
}

// Changed is closed at the next report of a probe or a finding.
func (m *Monitor) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Decide says which source to read now, and what waiting can bring if none.
func (m *Monitor) Decide() (Decision, Outlook) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pool.Decide(time.Since(m.began)), m.pool.Outlook()
}

// Find notes what reading or examining source i has shown, by one of the
// Pool's methods.
func (m *Monitor) Find(find func(*Pool) *Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(find(m.pool))
	m.wake()
}

// Moving notes that a move for lag or failback is begun, whatever comes of it.
func (m *Monitor) Moving() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pool.Moving(time.Since(m.began))
}

// Reading notes that reading has begun on source i.
func (m *Monitor) Reading(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.pool.Reading(i) {
		m.note(&c)
	}
	for j, c := range m.conf.Sources {
		m.conf.Metrics.Active(c.Name, i == j)
	}
}

// ActiveEnds are the end offsets, at its last good probe, of the source that is
// read or was read last; nil before the first.
func (m *Monitor) ActiveEnds() Ends {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pool.active < 0 {
		return nil
	}
	return m.pool.sources[m.pool.active].ends
}

// LosingLeast is the source to go on with if all have lost records; see Pool.
func (m *Monitor) LosingLeast() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pool.LosingLeast()
}

// Status of every source.
func (m *Monitor) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pool.Status()
}

// Ends are the end offsets of source i at its last good probe.
func (m *Monitor) Ends(i int) Ends {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pool.sources[i].ends
}

// Partitions is how many partitions a topic of source i had at its last good
// probe.
func (m *Monitor) Partitions(i int, topic string) int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen[i] == nil {
		return 0
	}
	return m.seen[i].Topics[topic].Partitions
}

// OneCluster returns an error if two sources are the same cluster.
func (m *Monitor) OneCluster() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[string]string{}
	for i, d := range m.seen {
		if d == nil || d.ClusterID == "" {
			continue
		}
		name := m.conf.Sources[i].Name
		if other, ok := names[d.ClusterID]; ok {
			return &position.Stop{
				Reason: fmt.Sprintf("sources %s and %s are the same cluster (cluster ID %s)", other, name, d.ClusterID),
				Cure:   "name each source cluster once: check seed_brokers of both",
			}
		}
		names[d.ClusterID] = name
	}
	return nil
}

func (m *Monitor) readable(i int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pool.readable(i)
}

// Guard returns a context that ends when source i can no longer be read, so
// that no question asked of it is waited for in vain.
func (m *Monitor) Guard(ctx context.Context, i int) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	m.running.Go(func() {
		for {
			changed := m.Changed()
			if !m.readable(i) {
				cancel()
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, cancel
}
