package kafkafailover_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// A relay from SASL_SSL to a target that wants client certificates. Each source
// has credentials of its own.
func TestSecurity(t *testing.T) {
	w := newWorld(t)
	topic := w.both("secure", 2)
	w.fill(topic, 2_000, 2, 100)
	w.user(w.source, "reader", "reader-secret")
	cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	writeIdentity(t, theKeys().client, cert, key)
	p := w.between(pipeline{topics: topic, input: stopAtEnd}, mtls(w.target, cert, key), scram(w.source, "reader", "reader-secret"))
	if code := w.run(p).wait(time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	w.mustBeExact(topic)
	out, errs, code := command(t, "check", w.file(w.yaml(p)))
	if code != 0 || !strings.Contains(out, `TLS, SCRAM-SHA-512 as "reader"`) || !strings.Contains(out, "TLS with a client certificate") {
		t.Errorf("check: exit code %d\n%s%s", code, out, errs)
	}
}

// Whatever keeps a connection from being opened is said with its cure.
func TestSecurityExplained(t *testing.T) {
	w, k := newWorld(t), theKeys()
	w.user(w.source, "known", "known-secret")
	trusting := func(change func(*tls.Config)) func() (*tls.Config, error) {
		return func() (*tls.Config, error) {
			c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
			c.RootCAs.AppendCertsFromPEM(k.ours.PEM)
			if change != nil {
				change(c)
			}
			return c, nil
		}
	}
	as := func(mechanism, user, password string) *kafka.Credentials {
		return &kafka.Credentials{Mechanism: mechanism, Username: user, Password: password}
	}
	showing := func(id kafkatest.Identity) func(*tls.Config) {
		return func(c *tls.Config) {
			pair, err := tls.X509KeyPair(id.Certificate, id.Key)
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{pair}
		}
	}
	known, plaintext := as("SCRAM-SHA-256", "known", "known-secret"), w.source.Brokers()
	scramAt, mtlsAt, staleAt := w.source.At(atSCRAM), w.source.At(atMTLS), w.source.At(atStale)
	for name, c := range map[string]struct {
		brokers  []string
		security kafka.Security
		says     string // empty: it connects
	}{
		"SCRAM-SHA-256":       {scramAt, kafka.Security{TLS: trusting(nil), SASL: known}, ""},
		"SCRAM-SHA-512":       {scramAt, kafka.Security{TLS: trusting(nil), SASL: as("SCRAM-SHA-512", "known", "known-secret")}, ""},
		"PLAIN":               {scramAt, kafka.Security{TLS: trusting(nil), SASL: as("PLAIN", plainUser, plainPassword)}, ""},
		"OAUTHBEARER":         {scramAt, kafka.Security{TLS: trusting(nil), SASL: &kafka.Credentials{Mechanism: "OAUTHBEARER", Token: bearer(), Extensions: map[string]string{"a": "b"}}}, ""},
		"client certificate":  {mtlsAt, kafka.Security{TLS: trusting(showing(k.client)), ServerName: brokerName}, ""},
		"wrong password":      {scramAt, kafka.Security{TLS: trusting(nil), SASL: as("SCRAM-SHA-256", "known", "guessed")}, `the broker refuses SCRAM-SHA-256 as "known": check username and password`},
		"unknown user":        {scramAt, kafka.Security{TLS: trusting(nil), SASL: as("SCRAM-SHA-512", "nobody", "guessed")}, `the broker refuses SCRAM-SHA-512 as "nobody"`},
		"wrong PLAIN":         {scramAt, kafka.Security{TLS: trusting(nil), SASL: as("PLAIN", plainUser, "guessed")}, `the broker refuses PLAIN as "plain"`},
		"bad token":           {scramAt, kafka.Security{TLS: trusting(nil), SASL: &kafka.Credentials{Mechanism: "OAUTHBEARER", Token: "guessed"}}, "check the token, which may have expired"},
		"mechanism":           {staleAt, kafka.Security{TLS: trusting(func(c *tls.Config) { c.InsecureSkipVerify = true }), SASL: known}, "it offers PLAIN; write one of these as mechanism of sasl"},
		"unknown authority":   {scramAt, kafka.Security{TLS: trusting(func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }), SASL: known}, "set root_cas_file of tls"},
		"expired":             {staleAt, kafka.Security{TLS: trusting(nil), SASL: known}, "the broker's certificate has expired"},
		"other name":          {mtlsAt, kafka.Security{TLS: trusting(showing(k.client))}, "not for 127.0.0.1 but for " + brokerName + ": connect by one of these names, or set tls_server_name"},
		"no certificate":      {mtlsAt, kafka.Security{TLS: trusting(nil), ServerName: brokerName}, "the broker wants a client certificate: set client_certs of tls"},
		"strange certificate": {mtlsAt, kafka.Security{TLS: trusting(showing(k.strange)), ServerName: brokerName}, "the broker refuses the relay's client certificate"},
		"expired certificate": {mtlsAt, kafka.Security{TLS: trusting(showing(k.staleClient)), ServerName: brokerName}, "the relay's client certificate expired at"},
		"TLS to plaintext":    {plaintext, kafka.Security{TLS: trusting(nil)}, "the broker does not speak TLS at this port"},
		"plaintext to TLS":    {mtlsAt, kafka.Security{}, "the broker speaks TLS at this port"},
		"no SASL":             {scramAt, kafka.Security{TLS: trusting(nil)}, "it wants SASL, most likely; set sasl"},
		"SASL to none":        {plaintext, kafka.Security{SASL: known}, "this port of the broker has no SASL"},
		"no file":             {scramAt, kafka.Security{TLS: func() (*tls.Config, error) { return nil, os.ErrNotExist }}, "the certificates that tls names cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := kafka.Conn{Name: "dc1", SeedBrokers: c.brokers, ClientID: "test", MetadataMaxAge: time.Minute, ConnIdleTimeout: time.Minute, Security: c.security}
			a, err := conn.Admin()
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			_, err = a.Describe(testContext(t))
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v", err)
			case err != nil && strings.Contains(err.Error(), "guessed"):
				t.Errorf("a secret is told: %v", err)
			}
		})
	}
}

// A source that cannot be connected to is unhealthy with the reason, and another
// one is read.
func TestSecuritySourceRefuses(t *testing.T) {
	p := newPool(t, 2)
	p.user(p.sources[0], "reader", "reader-secret")
	p.user(p.sources[1], "other", "other-secret")
	good := scram(p.sources[0], "reader", "reader-secret")
	for name, c := range map[string]struct {
		source place
		says   string
	}{
		"password":  {scram(p.sources[0], "reader", "guessed"), `the broker refuses SCRAM-SHA-512 as \"reader\"`},
		"authority": {place{good.brokers, fmt.Sprintf("tls: { enabled: true, root_cas_file: %q }", p.pem(theKeys().strangers.PEM))}, "set root_cas_file of tls"},
		"expired":   {place{p.sources[0].At(atStale), good.security}, "the broker's certificate has expired"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &poolWorld{world: newWorld(t), sources: p.sources}
			topic := p.all("refuses", 1)
			p.fillAll(topic, 0, 500, 1, 100)
			relay := p.run(p.between(pipeline{topics: topic}, place{brokers: p.target.Brokers()}, c.source, scram(p.sources[1], "other", "other-secret")))
			relay.mustLog(20*time.Second, "Source dc1 is unhealthy")
			if !strings.Contains(relay.logs(), c.says) {
				t.Errorf("the log does not say %q", c.says)
			}
			p.awaitTarget(topic, 500, 20*time.Second)
			relay.mustLog(time.Second, "Reading from source dc2")
			relay.mustBeReady()
			if code := relay.terminate(20 * time.Second); code != 0 {
				t.Errorf("exit code %d", code)
			}
			p.mustBeExact(topic)
		})
	}
}

// Access to the source that is read is lost: another one is read.
func TestSecuritySourceRevoked(t *testing.T) {
	p := newPool(t, 2)
	topic := p.all("revoked", 1)
	p.user(p.sources[0], p.name, "reader-secret")
	p.user(p.sources[1], p.name, "reader-secret")
	p.fillAll(topic, 0, 500, 1, 100)
	relay := p.run(p.between(pipeline{topics: topic}, place{brokers: p.target.Brokers()}, scram(p.sources[0], p.name, "reader-secret"), scram(p.sources[1], p.name, "reader-secret")))
	p.awaitTarget(topic, 500, 20*time.Second)
	relay.mustLog(time.Second, "Reading from source dc1")
	p.removeUser(p.sources[0], p.name)
	relay.mustLog(20*time.Second, "Switched from source dc1 to dc2 (failed)")
	relay.mustLog(time.Second, fmt.Sprintf(`the broker refuses SCRAM-SHA-512 as \"%s\"`, p.name))
	p.fillAll(topic, 500, 500, 1, 100)
	p.awaitTarget(topic, 1_000, 20*time.Second)
	relay.mustBeReady()
	relay.terminate(20 * time.Second)
	p.mustBeExact(topic)
}

// pem writes a file.
func (w *world) pem(b []byte) string {
	w.t.Helper()
	f := filepath.Join(w.t.TempDir(), "f.pem")
	if err := os.WriteFile(f, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// A target that refuses is waited for, unready, with the reason said once; the
// relay goes on by itself once it is let in.
func TestSecurityTargetRefuses(t *testing.T) {
	t.Run("no user", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.mustWait(scram(w.target, w.name, "writer-secret"), fmt.Sprintf("the broker refuses SCRAM-SHA-512 as %q", w.name), "kafka_relay_target_errors_total", func() { w.user(w.target, w.name, "writer-secret") })
	})
	t.Run("expired", func(t *testing.T) { // renewed in place: the files are read again
		t.Parallel()
		w := newWorld(t)
		cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
		writeIdentity(t, theKeys().staleClient, cert, key)
		w.mustWait(mtls(w.target, cert, key), "the relay's client certificate expired at", "kafka_relay_target_kafka_errors_total", func() { writeIdentity(t, theKeys().client, cert, key) })
	})
}

func (w *world) mustWait(target place, says, counts string, mend func()) {
	w.t.Helper()
	topic := w.both("waits", 1)
	w.fill(topic, 500, 1, 100)
	y := w.yaml(w.between(pipeline{topics: topic, top: "metrics: { prometheus: {} }"}, target, place{brokers: w.source.Brokers()}))
	relay := w.runYAML(strings.Replace(y, "level: INFO", "level: DEBUG", 1)) // with the client's own lines
	relay.mustBeUnready(says)
	attempts := func() int { return strings.Count(relay.logs(), "unable to ") }
	before := attempts()
	eventually(w.t, 20*time.Second, "some attempts more", func() bool { return attempts() >= before+4 })
	if n := strings.Count(relay.logs(), strings.ReplaceAll(says, `"`, `\"`)); n != 1 {
		w.t.Errorf("the reason is logged %d times", n)
	}
	if n := relay.metric(counts); n < 1 {
		w.t.Errorf("%s counts %v failures", counts, n)
	}
	mend()
	w.awaitTarget(topic, 500, 20*time.Second)
	relay.mustBeReady()
	if code := relay.terminate(20 * time.Second); code != 0 {
		w.t.Errorf("exit code %d", code)
	}
	w.mustBeExact(topic)
}

// Access to the target is lost under load, and comes back: unready meanwhile,
// nothing lost, in both modes.
func TestSecurityRevoked(t *testing.T) {
	for _, delivery := range []string{"at_least_once", "exactly_once"} {
		t.Run(delivery, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			topic := w.both("revoked", 2)
			w.user(w.target, w.name, "writer-secret")
			load := w.load(topic, 2, 100, 1_000)
			relay := w.run(w.between(pipeline{topics: topic, output: "delivery: " + delivery}, scram(w.target, w.name, "writer-secret"), place{brokers: w.source.Brokers()}))
			w.awaitTarget(topic, 500, 20*time.Second)
			w.removeUser(w.target, w.name) // connections prove themselves anew within connections.max.reauth.ms
			relay.mustBeUnready(fmt.Sprintf("the broker refuses SCRAM-SHA-512 as %q", w.name))
			w.user(w.target, w.name, "writer-secret")
			relay.mustBeReady()
			load.stop()
			eventually(t, 20*time.Second, "everything is relayed", func() bool { return len(w.countOrigins(topic)) == load.count() })
			if code := relay.terminate(20 * time.Second); code != 0 {
				t.Errorf("exit code %d", code)
			}
			w.mustBeFaithful(topic)
		})
	}
}

// No secret is in any output: logs at their most talkative, errors, echo, lint,
// check, status, verify.
func TestSecurityRedacted(t *testing.T) {
	w := newWorld(t)
	topic := w.both("redacted", 1)
	w.fill(topic, 100, 1, 100)
	w.user(w.source, "reader", "secret-of-the-source")
	key := strings.ReplaceAll(string(theKeys().client.Key), "\n", `\n`)
	source := scram(w.source, "reader", "secret-of-the-source")
	target := place{w.target.At(atSCRAM), fmt.Sprintf("tls: { enabled: true, root_cas_file: %q, client_certs: [ { cert: %q, key: \"%s\", password: secret-of-the-key } ] }\nsasl: [ { mechanism: PLAIN, username: plain, password: secret-of-the-target } ]",
		theKeys().ca, theKeys().client.Certificate, key)}
	y := strings.Replace(w.yaml(w.between(pipeline{topics: topic}, target, source)), "level: INFO", "level: ALL", 1)
	secrets := []string{"secret-of", strings.Split(string(theKeys().client.Key), "\n")[1]}
	mustBeSilent := func(what, text string) {
		for _, s := range secrets {
			if at := strings.Index(text, s); at >= 0 {
				t.Errorf("%s tells a secret: ...%s", what, text[max(0, at-100):at+len(s)])
			}
		}
	}
	file := w.file(y)
	for _, name := range []string{"echo", "lint", "check", "status", "verify"} {
		out, code := cli(t, name, file)
		if !strings.Contains(out, "reader") && !strings.Contains(out, "SASL_AUTHENTICATION_FAILED") && name != "lint" {
			t.Errorf("%s, exit code %d, says nothing of the matter:\n%s", name, code, out)
		}
		mustBeSilent(name, out)
	}
	relay := w.runYAML(y)
	relay.mustBeUnready("the broker refuses")
	_, body := relay.ready()
	mustBeSilent("/ready", body)
	relay.terminate(20 * time.Second)
	mustBeSilent("the log", relay.logs())
	for _, wrong := range []string{"mechanism: PLAIN, username: plain, password: secret-of-the-target, token: secret-of-the-token", "mechanism: PLAIN, password: secret-of-the-target", "mechanism: OAUTHBEARER, username: secret-of-the-user, token: secret-of-the-token"} {
		out, code := cli(t, "lint", w.file("output: { kafka_failover: { seed_brokers: [ h:1 ], sasl: [ { "+wrong+" } ] } }"))
		if code == 0 || !strings.Contains(out, "sasl: ") {
			t.Errorf("lint, exit code %d: %s", code, out)
		}
		mustBeSilent("lint", out)
	}
}
