// Package convert turns a configuration of kaf-relay (v1.4.0) into a pipeline of
// this program.
package convert

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are what kaf-relay takes on its command line.
type Options struct {
	// Single reads the first source only, kaf-relay's --mode single.
	Single    bool
	StopAtEnd bool
	// Topics replace those of the files: source:target[:partition].
	Topics []string
}

// TOML converts one or more TOML files, merged in order, to commented YAML. Each
// key is mapped, or named as dropped in the YAML's head.
func TOML(o Options, files ...[]byte) (string, error) {
	root, err := parse(files...)
	if err != nil {
		return "", err
	}
	c := &conversion{o: o, root: root, variables: map[string]string{}}
	c.input()
	c.filters()
	c.output()
	c.app()
	for _, name := range root.rest() {
		c.drop(name, "not a key of kaf-relay v1.4.0")
	}
	if err := errors.Join(c.errs...); err != nil {
		return "", err
	}
	return c.head() + c.text.String(), nil
}

type conversion struct {
	o       Options
	root    *section
	text    strings.Builder
	dropped []string
	errs    []error
	// variables are the passwords under the names of their variables.
	variables map[string]string
}

func (c *conversion) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// drop names a key that has no counterpart, and why.
func (c *conversion) drop(key, why string) {
	line := fmt.Sprintf("%s: %s", key, why)
	if !slices.Contains(c.dropped, line) {
		c.dropped = append(c.dropped, line)
	}
}

// dropSet drops a key of a section if it is set.
func (c *conversion) dropSet(s *section, name, why string) {
	if _, ok := s.take(name); ok {
		c.drop(s.key(name), why)
	}
}

func (c *conversion) dropRest(s *section) {
	for _, name := range s.rest() {
		c.drop(name, "not a key of kaf-relay v1.4.0")
	}
}

func (c *conversion) head() string {
	var b strings.Builder
	b.WriteString("# Converted from a kaf-relay configuration. Look it over, then try\n#   kafka-failover lint THIS_FILE\n#   kafka-failover check THIS_FILE\n")
	if len(c.dropped) > 0 {
		b.WriteString("#\n# What has no counterpart and was left out:\n")
		for _, d := range c.dropped {
			b.WriteString("#   " + d + "\n")
		}
	}
	b.WriteString("\n")
	return b.String()
}

// line writes one line at a depth, with a comment behind it.
func (c *conversion) line(depth int, text, comment string) {
	c.text.WriteString(strings.Repeat("  ", depth) + text)
	if comment != "" {
		c.text.WriteString("  # " + comment)
	}
	c.text.WriteString("\n")
}

func (c *conversion) comment(depth int, lines ...string) {
	for _, l := range lines {
		c.line(depth, "# "+l, "")
	}
}

func (c *conversion) input() {
	c.line(0, "input:", "")
	c.line(1, "kafka_failover:", "")
	pool := c.root.table("source_pool")
	c.sources()
	c.topics()
	c.dropSet(pool, "initial_offset", "kaf-relay does not read it, and begins an empty target at offset 0, as start_offset: earliest does; latest is the other choice")
	if c.o.StopAtEnd {
		c.line(2, "stop_at_end: true", "")
	}
	if pool.is("randomize_initial") {
		c.line(2, "initial_source: random", "")
	}
	c.health(pool)
	c.retry(pool)
	c.dropRest(pool)
}

func (c *conversion) sources() {
	sources := c.root.tables("sources")
	if len(sources) == 0 {
		c.fail("the configuration has no [[sources]]")
	}
	if c.o.Single && len(sources) > 1 {
		for _, s := range sources[1:] {
			c.drop(s.path, "kaf-relay reads only the first source in single mode")
		}
		sources = sources[:1]
	}
	c.line(2, "sources:", "")
	for i, s := range sources {
		name := s.text("name")
		if name == "" {
			name = fmt.Sprintf("source%d", i+1)
		}
		c.line(3, "- name: "+quote(name), "")
		servers := s.list("servers")
		if len(servers) == 0 {
			c.fail("%s has no servers", s.path)
		}
		c.line(4, "seed_brokers: "+quoteAll(servers), "")
		c.security(s, 4, name)
		c.dropSet(s, "session_timeout", "health.timeout bounds what a source may take to answer")
		c.dropSet(s, "max_wait_time", "kaf-relay does not read it; fetch_max_wait is 100ms")
		c.dropSet(s, "max_failovers", "kaf-relay does not read it; retry.max_retries bounds attempts")
		c.dropSet(s, "enable_log", "logger.level: DEBUG shows the Kafka clients' log")
		c.dropRest(s)
	}
}

func (c *conversion) topics() {
	routes := map[string]string{} // by source topic, as kaf-relay lays --topic over the files
	for _, t := range c.root.tables("topics") {
		for _, name := range t.names() {
			routes[name] = name + ":" + t.text(name)
		}
	}
	for _, r := range c.o.Topics {
		name, _, _ := strings.Cut(r, ":")
		routes[name] = r
	}
	if len(routes) == 0 {
		c.fail("the configuration has no [topics]")
		return
	}
	c.line(2, "topics:", "")
	for _, name := range slices.Sorted(maps.Keys(routes)) {
		r := routes[name]
		f := strings.Split(r, ":")
		if len(f) == 2 {
			if f[0] == f[1] {
				r = f[0]
			}
			c.line(3, "- "+quote(r), fmt.Sprintf("each partition into its own; kaf-relay v1.4.0 wrote all into partition 0: %s:0 goes on like that", strings.Join(f, ":")))
			continue
		}
		c.line(3, "- "+quote(r), "")
	}
}

func (c *conversion) health(pool *section) {
	interval, timeout, lag := pool.text("healthcheck_interval"), pool.text("request_timeout"), pool.text("offset_lag_threshold")
	if interval+timeout+lag == "" {
		return
	}
	c.line(2, "health:", "")
	if interval != "" {
		c.line(3, "interval: "+interval, "")
	}
	if timeout != "" {
		note := ""
		if d := c.duration(pool.key("request_timeout"), timeout); d < time.Second {
			note = "tight: a pause of the broker's garbage collector is longer; the default is 1s"
		}
		c.line(3, "timeout: "+timeout, note)
	}
	if lag != "" {
		c.line(3, "lag_threshold: "+lag, "records; the one behind is left for the one ahead")
	}
}

func (c *conversion) retry(pool *section) {
	most, low, high, on := pool.text("max_retries"), pool.text("backoff_min"), pool.text("backoff_max"), pool.is("backoff_enable")
	if most+low+high == "" {
		return
	}
	c.line(2, "retry:", "")
	if most != "" {
		c.line(3, "max_retries: "+most, "")
	}
	if !on {
		low, high = "1s", "1s" // what kaf-relay waits then
	}
	if low != "" {
		c.line(3, "initial_interval: "+low, "")
	}
	if high != "" {
		c.line(3, "max_interval: "+high, "")
	}
}

// security maps what is enabled of TLS and SASL.
func (c *conversion) security(s *section, depth int, name string) {
	c.tls(s, depth)
	auth, mechanism, user, password := s.is("enable_auth"), s.text("sasl_mechanism"), s.text("username"), s.text("password")
	if !auth {
		return
	}
	if !slices.Contains([]string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}, mechanism) {
		c.fail("%s is %q: write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.key("sasl_mechanism"), mechanism)
	}
	c.line(depth, "sasl:", "")
	c.line(depth+1, "- mechanism: "+mechanism, "")
	c.line(depth+2, "username: "+quote(user), "")
	c.line(depth+2, "password: ${"+c.variable(name, password)+"}", "set this variable: passwords are not copied")
}

func (c *conversion) tls(s *section, depth int) {
	on, ca, cert, key := s.is("enable_tls"), s.text("ca_cert_path"), s.text("client_cert_path"), s.text("client_key_path")
	if !on {
		return
	}
	c.line(depth, "tls:", "")
	c.line(depth+1, "enabled: true", "")
	if ca != "" {
		c.line(depth+1, "root_cas_file: "+quote(ca), "")
	}
	if cert+key != "" {
		c.line(depth+1, "client_certs:", "")
		c.line(depth+2, "- cert_file: "+quote(cert), "")
		c.line(depth+3, "key_file: "+quote(key), "")
	}
}

// variable names the environment variable for a cluster's password: one for each
// password that clusters of one name have.
func (c *conversion) variable(name, password string) string {
	base := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name)) + "_PASSWORD"
	v := base
	for i := 2; ; i++ {
		if taken, ok := c.variables[v]; !ok || taken == password {
			break
		}
		v = fmt.Sprintf("%s_%d", base, i)
	}
	c.variables[v] = password
	return v
}

func (c *conversion) filters() {
	filters := c.root.table("filters")
	var on []string
	for _, name := range filters.names() {
		f := filters.table(name)
		enabled := f.is("enabled")
		f.take("path")
		f.take("config")
		c.dropRest(f)
		if enabled {
			on = append(on, name)
		}
		c.drop(f.path, "a Go plugin cannot be loaded; write what it does as a Bloblang mapping")
	}
	if len(on) == 0 {
		return
	}
	c.line(0, "", "")
	c.line(0, "pipeline:", "")
	c.line(1, "processors:", "")
	for _, name := range on {
		c.comment(2, "The filter "+quote(name)+" was a Go plugin. Until its condition stands here, as in",
			"  root = if this.currency != \"INR\" { deleted() }", "the relay stops at the first record, and nothing passes unfiltered.")
		c.line(2, "- mapping: root = throw("+quote("the condition of filter "+name+" is missing")+")", "")
	}
}

func (c *conversion) output() {
	t := c.root.table("target")
	c.line(0, "", "")
	c.line(0, "output:", "")
	c.line(1, "kafka_failover:", "")
	servers := t.list("servers")
	if len(servers) == 0 {
		c.fail("[target] has no servers")
	}
	c.line(2, "seed_brokers: "+quoteAll(servers), "")
	c.security(t, 2, "target")
	c.promises(t)
	if v := t.text("flush_frequency"); v != "" {
		c.line(2, "linger: "+v, "0s, the default, is as fast and quicker to answer")
	}
	if v := t.text("compression"); v != "" {
		c.line(2, "compression: "+v, "")
	}
	if v := t.text("max_message_bytes"); v != "" {
		c.line(2, "max_message_bytes: "+v, "at most max.message.bytes of the topics")
	}
	if v := t.text("buffer_size"); v != "" {
		c.line(2, "max_buffered_records: "+v, "")
	}
	c.line(2, "timestamp_header: _t", "kaf-relay writes it always; leave it out if nobody reads it")
	c.dropSet(t, "name", "the target needs no name")
	c.dropSet(t, "session_timeout", "kaf-relay gives a write up after it; a target that is slow or down is waited for")
	c.dropSet(t, "enable_log", "logger.level: DEBUG shows the Kafka clients' log")
	c.dropSet(t, "max_retries", "a target that is down is waited for, in order and without limit")
	for _, name := range []string{"backoff_enable", "backoff_min", "backoff_max", "request_timeout"} {
		c.dropSet(t, name, "the client retries by itself")
	}
	for _, name := range []string{"batch_size", "flush_batch_size"} {
		c.dropSet(t, name, "batches are as large as what was fetched, and several are under way")
	}
	c.dropRest(t)
}

// promises maps acknowledgement and idempotence, of which one needs the other.
func (c *conversion) promises(t *section) {
	_, set := t.values["enable_idempotency"]
	ack, idempotent := t.text("commit_ack_type"), t.is("enable_idempotency")
	acks := "all"
	switch ack { // anything else is all to kaf-relay too
	case "tcp":
		acks = "none"
	case "leader":
		acks = "leader"
	}
	switch {
	case idempotent && acks != "all":
		c.drop(t.key("commit_ack_type"), fmt.Sprintf("%q together with enable_idempotency, which needs acks: all", ack))
	case acks == "all" && set && !idempotent:
		c.drop(t.key("enable_idempotency"), "idempotent writes cost nothing; idempotent_write: false would turn them off")
	case idempotent || acks == "all": // the default
	default:
		c.line(2, "acks: "+acks, "gives up the promise that nothing is lost; leave both lines out to have it")
		c.line(2, "idempotent_write: false", "")
	}
}

func (c *conversion) app() {
	app := c.root.table("app")
	address, level := app.text("metrics_server_addr"), app.text("log_level")
	c.dropRest(app)
	if address != "" {
		if strings.HasPrefix(address, ":") {
			address = "0.0.0.0" + address
		}
		c.line(0, "", "")
		c.line(0, "http:", "/metrics, /ready and /ping")
		c.line(1, "address: "+quote(address), "")
		c.line(0, "", "")
		c.line(0, "metrics:", "the names are kaf-relay's, with Benthos' own beside them")
		c.line(1, "prometheus: {}", "")
	}
	if level != "" {
		c.line(0, "", "")
		c.line(0, "logger:", "")
		c.line(1, "level: "+strings.ToUpper(level), "")
	}
}

func (c *conversion) duration(key, value string) time.Duration {
	d, err := time.ParseDuration(value)
	if err != nil {
		c.fail("%s is %q, which is not a time such as 100ms", key, value)
	}
	return d
}

// quote is a YAML string, in quotes where it might be taken for something else.
func quote(s string) string { return strconv.Quote(s) }

func quoteAll(items []string) string {
	out := make([]string, len(items))
	for i, s := range items {
		out[i] = quote(s)
	}
	return "[ " + strings.Join(out, ", ") + " ]"
}
