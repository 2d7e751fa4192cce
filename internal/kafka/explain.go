package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// explained is an error with what it means and what to do before it.
type explained struct {
	reason string
	err    error
}

func (e *explained) Error() string { return fmt.Sprintf("%s (%v)", e.reason, e.err) }
func (e *explained) Unwrap() error { return e.err }

// Explain puts before an error of one of c's clients what it means and what to
// do, where the cluster refuses this side or this side the cluster. Other errors
// it returns as they are.
func (c Conn) Explain(err error) error {
	return c.explain(err, func() []string { return nil })
}

// explain asks for the mechanisms that are offered if it comes to that.
func (c Conn) explain(err error, offered func() []string) error {
	if e := (*explained)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	var reason string
	switch s := c.Security; {
	case s.SASL != nil && errors.Is(err, kerr.UnsupportedSaslMechanism):
		reason = s.notOffered(offered())
	case s.SASL != nil && isSASL(err):
		reason = s.refused(err)
	default:
		if reason = s.distrusted(err); reason == "" {
			reason = s.garbled(err)
		}
	}
	if reason == "" {
		return err
	}
	return &explained{reason, err}
}

func isSASL(err error) bool {
	return errors.Is(err, kerr.SaslAuthenticationFailed) || errors.Is(err, kerr.IllegalSaslState) ||
		strings.Contains(err.Error(), "unexpected data in oauth response") // what else a broker has to say is a refusal (RFC 7628)
}

// refused: the broker does not take the credentials.
func (s Security) refused(err error) string {
	switch {
	case errors.Is(err, kerr.IllegalSaslState):
		return "this port of the broker has no SASL: leave sasl out, or use the port that has it"
	case s.SASL.Mechanism != mechanismBearer:
		return fmt.Sprintf("the broker refuses %s: check username and password, and that the broker knows this user for this mechanism", s.SASL)
	}
	return fmt.Sprintf("the broker refuses %s: check the token, which may have expired", s.SASL)
}

// notOffered: the broker has none of the mechanisms.
func (s Security) notOffered(offered []string) string {
	reason := fmt.Sprintf("the broker does not offer %s", s.SASL.Mechanism)
	if len(offered) > 0 {
		return fmt.Sprintf("%s: it offers %s; write one of these as mechanism of sasl", reason, strings.Join(offered, ", "))
	}
	return reason + ": write one of its sasl.enabled.mechanisms as mechanism of sasl"
}

// offered asks for the mechanisms that the cluster offers, nil if it does not
// tell. That needs no credentials.
func (c Conn) offered() []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.Security.SASL, c.Events = nil, nil
	cl, err := Dial(append(c.Opts(), kgo.RequestRetries(0)))
	if err != nil {
		return nil
	}
	defer cl.Close()
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.Mechanism = "?"
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil
	}
	return resp.SupportedMechanisms
}

// distrusted: one side does not trust the other's certificate.
func (s Security) distrusted(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "the broker's certificate was signed by an authority that is not trusted here: set root_cas_file of tls to that authority's certificate"
	case errors.As(err, &host):
		return fmt.Sprintf("the broker's certificate is not for %s but for %s: connect by one of these names, or set tls_server_name to one", host.Host, namesOf(host.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		from, to := invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339)
		return fmt.Sprintf("the broker's certificate has expired, or is not valid yet (from %s to %s): renew it on the broker, or set this machine's clock", from, to)
	case alertFrom(err):
		return s.alerted(err.Error())
	}
	return ""
}

func namesOf(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all"
	}
	return strings.Join(names, ", ")
}

// alerted: the broker has ended the handshake. It seldom tells why: Kafka calls
// any client certificate that it does not like bad or unknown.
func (s Security) alerted(text string) string {
	if !strings.Contains(text, "certificate") {
		return "the broker ended the TLS handshake: it takes other TLS versions or ciphers (ssl.enabled.protocols, ssl.cipher.suites)"
	}
	if !s.hasCertificate() {
		return "the broker wants a client certificate: set client_certs of tls"
	}
	for _, c := range s.certificates() {
		if leaf, err := x509.ParseCertificate(c.Certificate[0]); err == nil && time.Now().After(leaf.NotAfter) {
			return fmt.Sprintf("the relay's client certificate expired at %s: renew the file that client_certs of tls names; it is read again for each connection", leaf.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	return "the broker refuses the relay's client certificate: it must be signed by an authority that the broker trusts (ssl.truststore), and be meant for client authentication"
}

// garbled: one side speaks TLS or SASL and the other does not, so that the
// broker hangs up or its bytes make no sense.
func (s Security) garbled(err error) string {
	var eof *kgo.ErrFirstReadEOF
	var record tls.RecordHeaderError
	var op *net.OpError
	hungUp := errors.As(err, &eof) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
	dialling := errors.As(err, &op) && op.Op == "dial"
	switch {
	case s.TLS != nil && (errors.As(err, &record) || (hungUp && dialling)):
		return "the broker does not speak TLS at this port: use its TLS port, or write tls: { enabled: false }"
	case s.TLS == nil && strings.Contains(err.Error(), "appear to be a tls alert record"):
		return wantsTLS
	case eof == nil:
		return ""
	case strings.Contains(eof.Error(), "SASL is required"):
		return "the broker hung up at the first request: it wants SASL, most likely; set sasl"
	case s.TLS == nil:
		return wantsTLS
	case !s.hasCertificate():
		return "the broker hung up behind the TLS handshake: it wants a client certificate, most likely; set client_certs of tls"
	}
	return ""
}

const wantsTLS = "the broker speaks TLS at this port: write tls: { enabled: true }, or use its plaintext port"
