package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

func parseSecurity(t *testing.T, yaml string) (Security, error) {
	t.Helper()
	p, err := service.NewConfigSpec().Fields(SecurityFields()...).ParseYAML(yaml, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := NewFields(p)
	s := f.Security()
	return s, f.Err()
}

func TestParseSecurity(t *testing.T) {
	for yaml, want := range map[string]string{ // what it says, or a part of the error
		"{}":                     "plaintext, no SASL",
		"tls: { enabled: true }": "TLS, no SASL",
		"sasl: [ { mechanism: PLAIN, username: a, password: p4ss } ]":                                                  `plaintext, PLAIN as "a"`,
		"sasl: [ { mechanism: OAUTHBEARER, token: p4ss, extensions: { x: y } } ]":                                      "plaintext, OAUTHBEARER",
		"sasl: [ { mechanism: SCRAM-SHA-256, username: a, password: p4ss }, { mechanism: OAUTHBEARER, token: p4ss } ]": "sasl has 2 items: write one",
		"sasl: [ { mechanism: plain, username: a, password: p4ss } ]":                                                  "mechanism is plain and must be PLAIN, ",
		"sasl: [ { mechanism: PLAIN, password: p4ss } ]":                                                               "PLAIN needs a username",
		"sasl: [ { mechanism: PLAIN, username: a } ]":                                                                  "needs a password and it is empty",
		"sasl: [ { mechanism: PLAIN, username: a, password: p4ss, token: p4ss } ]":                                     "token and extensions are for",
		"sasl: [ { mechanism: OAUTHBEARER } ]":                                                                         "needs a token and it is empty",
		"sasl: [ { mechanism: OAUTHBEARER, token: p4ss, password: p4ss } ]":                                            "takes a token, no username and password",
		"tls_server_name: a":                                                  "TLS is not on",
		"tls: { enabled: true, root_cas_file: /nowhere }":                     "/nowhere",
		"tls: { enabled: true, client_certs: [ { cert: p4ss, key: p4ss } ] }": "tls: ",
		"tls: { enabled: true, root_cas: a, root_cas_file: b }":               "only one field",
		"tls: { enabled: true, skip_cert_verify: true }\ntls_server_name: a\nsasl: [ { mechanism: SCRAM-SHA-512, username: \"b, c\", password: \"p4ss, = \" } ]": `TLS, SCRAM-SHA-512 as "b, c"`,
	} {
		s, err := parseSecurity(t, yaml)
		got := s.String()
		if err != nil {
			got = err.Error()
		}
		if (err == nil && got != want) || (err != nil && !strings.Contains(got, want)) {
			t.Errorf("%s: %s", yaml, got)
		}
		c := conn("h:1")
		c.Security = s
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(verb, c) + got; strings.Contains(text, "p4ss") {
				t.Errorf("%s: %s prints the secret: %s", yaml, verb, text)
			}
		}
		if err == nil {
			if err := Validate(c.Opts()); err != nil {
				t.Errorf("%s: %v", yaml, err)
			}
		}
	}
}

// An error is explained once, however often it is passed on, and stays what it is.
func TestExplainOnce(t *testing.T) {
	c := conn("h:1")
	c.Security.SASL = &Credentials{Mechanism: mechanism256, Username: "a", Password: "p4ss"}
	once := c.Explain(fmt.Errorf("connecting: %w", kerr.SaslAuthenticationFailed))
	twice := c.Explain(fmt.Errorf("target: %w", once))
	if !errors.Is(twice, kerr.SaslAuthenticationFailed) || strings.Count(twice.Error(), "check username and password") != 1 {
		t.Error(twice)
	}
	if err := c.Explain(kerr.UnsupportedSaslMechanism); !strings.Contains(err.Error(), "write one of its sasl.enabled.mechanisms") {
		t.Error(err)
	}
	other := errors.New("something else")
	if err := c.Explain(other); !errors.Is(err, other) || err.Error() != "something else" || c.Explain(nil) != nil {
		t.Error(err)
	}
}

// Certificates are those that the files hold when a connection is opened.
func TestCertificatesAreReadAgain(t *testing.T) {
	ours, err := kafkatest.NewAuthority("ours")
	if err != nil {
		t.Fatal(err)
	}
	others, err := kafkatest.NewAuthority("others")
	if err != nil {
		t.Fatal(err)
	}
	id, err := ours.Issue(time.Now().Add(time.Hour), "broker.example")
	if err != nil {
		t.Fatal(err)
	}
	address := serveTLS(t, id)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(pem []byte) {
		if err := os.WriteFile(file, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(others.PEM)
	s, err := parseSecurity(t, fmt.Sprintf("tls: { enabled: true, root_cas_file: %q }\ntls_server_name: broker.example", file))
	if err != nil {
		t.Fatal(err)
	}
	dial := s.dial(time.Second)
	if _, err := dial(t.Context(), "tcp", address); err == nil || s.distrusted(err) == "" {
		t.Fatalf("an authority that is not trusted: %v", err)
	}
	write(ours.PEM)
	c, err := dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatalf("once the file holds the right one: %v", err)
	}
	_ = c.Close()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	op := (*net.OpError)(nil)
	if _, err := dial(t.Context(), "tcp", address); !errors.As(err, &op) || op.Op != "dial" || !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("without the file: %v", err)
	}
}

// serveTLS accepts connections and does no more than the handshake.
func serveTLS(t *testing.T, id kafkatest.Identity) string {
	t.Helper()
	pair, err := tls.X509KeyPair(id.Certificate, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}
