package kafka

import (
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Security is how connections to a cluster are protected and authenticated. The
// zero value is plaintext without authentication.
type Security struct {
	// TLS reads the settings and the files they name; nil for plaintext. Each
	// connection asks anew, so that renewed certificates need no restart.
	TLS func() (*tls.Config, error)
	// ServerName is the name that certificates of brokers must carry; empty:
	// the one that was dialled.
	ServerName string
	// SASL are the credentials; nil for none.
	SASL *Credentials
}

// Credentials of one SASL mechanism.
type Credentials struct {
	Mechanism          string
	Username, Password string
	// Token and Extensions (KIP-342) are of OAUTHBEARER.
	Token      string
	Extensions map[string]string
}

// String leaves the secrets out, so that none is ever printed.
func (c Credentials) String() string {
	if c.Username == "" {
		return c.Mechanism
	}
	return fmt.Sprintf("%s as %q", c.Mechanism, c.Username)
}

// GoString is String.
func (c Credentials) GoString() string { return c.String() }

func (s Security) String() string {
	text := "plaintext"
	if s.TLS != nil {
		text = "TLS"
		if s.hasCertificate() {
			text += " with a client certificate"
		}
	}
	if s.SASL == nil {
		return text + ", no SASL"
	}
	return text + ", " + s.SASL.String()
}

func (s Security) hasCertificate() bool { return len(s.certificates()) > 0 }

// certificates are the relay's own, as they are now.
func (s Security) certificates() []tls.Certificate {
	if s.TLS == nil {
		return nil
	}
	c, err := s.TLS()
	if err != nil {
		return nil
	}
	return c.Certificates
}

// Exposed tells whether a password or token travels in the clear.
func (s Security) Exposed() bool {
	return s.TLS == nil && s.SASL != nil && (s.SASL.Mechanism == mechanismPlain || s.SASL.Mechanism == mechanismBearer)
}

// opts are the client's options; patience bounds the opening of a connection.
func (s Security) opts(patience time.Duration) []kgo.Opt {
	opts := []kgo.Opt{kgo.DialTimeout(patience)}
	if s.TLS != nil {
		opts[0] = kgo.Dialer(s.dial(patience))
	}
	if s.SASL != nil {
		opts = append(opts, kgo.SASL(s.SASL.mechanism()))
	}
	return opts
}

const (
	mechanismPlain  = "PLAIN"
	mechanism256    = "SCRAM-SHA-256"
	mechanism512    = "SCRAM-SHA-512"
	mechanismBearer = "OAUTHBEARER"
)

func (c Credentials) mechanism() sasl.Mechanism {
	switch c.Mechanism {
	case mechanism256:
		return scram.Auth{User: c.Username, Pass: c.Password}.AsSha256Mechanism()
	case mechanism512:
		return scram.Auth{User: c.Username, Pass: c.Password}.AsSha512Mechanism()
	case mechanismBearer:
		return oauth.Auth{Token: c.Token, Extensions: c.Extensions}.AsMechanism()
	}
	return plain.Auth{User: c.Username, Pass: c.Password}.AsMechanism()
}

const (
	fieldTLS           = "tls"
	fieldTLSServerName = "tls_server_name"
	fieldSASL          = "sasl"
	fieldMechanism     = "mechanism"
	fieldUsername      = "username"
	fieldPassword      = "password"
	fieldToken         = "token"
	fieldExtensions    = "extensions"
)

// SecurityFields are the fields that say how a cluster is connected to.
func SecurityFields() []*service.ConfigField {
	return []*service.ConfigField{
		service.NewTLSToggledField(fieldTLS).
			Description("TLS. `enabled: true` alone trusts the system's authorities. Files are read again for each new connection, so renewed certificates need no restart. Kafka: security.protocol, ssl.truststore.*, ssl.keystore.*."),
		service.NewStringField(fieldTLSServerName).Default("").Advanced().
			Description("Name that the brokers' certificates are for, where they are connected to by another. Kafka's own clients can only give the check up (ssl.endpoint.identification.algorithm)."),
		service.NewObjectListField(fieldSASL,
			EnumField(fieldMechanism, mechanismPlain, mechanism256, mechanism512, mechanismBearer).
				Description("Kafka: sasl.mechanism."),
			service.NewStringField(fieldUsername).Default("").
				Description("User of PLAIN and SCRAM."),
			service.NewStringField(fieldPassword).Default("").Secret().
				Description("Password of PLAIN and SCRAM. Take it from the environment: `${NAME}`.").Example("${KAFKA_PASSWORD}"),
			service.NewStringField(fieldToken).Default("").Secret().
				Description("Token of OAUTHBEARER, as it is: it is not renewed. Take it from the environment: `${NAME}`.").Example("${KAFKA_TOKEN}"),
			service.NewStringMapField(fieldExtensions).Optional().Advanced().
				Description("Extensions to send with the token of OAUTHBEARER (KIP-342)."),
		).Default([]any{}).LintRule(saslRule).
			Description("How the relay proves to this cluster who it is: one item, of a mechanism that the brokers offer.").
			Example([]any{map[string]any{"mechanism": mechanism512, "username": "relay", "password": "${KAFKA_PASSWORD}"}}),
	}
}

// saslRule says what Security and Credentials.check say. It is asked about the list,
// and about each item.
const saslRule = `
let c = if this.type() == "object" { this } else { {} }
let bearer = $c.mechanism.or("") == "OAUTHBEARER"
root = match {
  this.type() == "array" && this.length() > 1 => [ "sasl has several items: write one, since a broker hangs up on a client that tries another mechanism first" ],
  this.type() != "object" => [],
  $bearer && $c.username.or("") + $c.password.or("") != "" => [ "sasl: OAUTHBEARER takes a token, no username and password: write token: ${NAME}" ],
  $bearer && $c.token.or("") == "" => [ "sasl: OAUTHBEARER needs a token: write token: ${NAME}" ],
  !$bearer && ($c.token.or("") != "" || $c.extensions.or({}).length() > 0) => [ "sasl: " + $c.mechanism.or("") + " takes username and password: token and extensions are for mechanism: OAUTHBEARER" ],
  !$bearer && $c.username.or("") == "" => [ "sasl: " + $c.mechanism.or("") + " needs a username: write username: NAME" ],
  !$bearer && $c.password.or("") == "" => [ "sasl: " + $c.mechanism.or("") + " needs a password: write password: ${NAME}" ],
}`

// check says what is missing. What it says never holds a secret.
func (c Credentials) check() error {
	bearer := c.Mechanism == mechanismBearer
	switch {
	case !slices.Contains([]string{mechanismPlain, mechanism256, mechanism512, mechanismBearer}, c.Mechanism):
		return fmt.Errorf("mechanism is %s and must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER", c.Mechanism)
	case bearer && c.Username+c.Password != "":
		return fmt.Errorf("sasl: %s takes a token, no username and password: write token: ${NAME}", c.Mechanism)
	case bearer && c.Token == "":
		return fmt.Errorf("sasl: %s needs a token and it is empty: write token: ${NAME}, and set that variable", c.Mechanism)
	case !bearer && (c.Token != "" || len(c.Extensions) > 0):
		return fmt.Errorf("sasl: %s takes username and password: token and extensions are for mechanism: OAUTHBEARER", c.Mechanism)
	case !bearer && c.Username == "":
		return fmt.Errorf("sasl: %s needs a username: write username: NAME", c.Mechanism)
	case !bearer && c.Password == "":
		return fmt.Errorf("sasl: %s needs a password and it is empty: write password: ${NAME}, and set that variable", c.Mechanism)
	}
	return nil
}

// Security reads the SecurityFields. The files that tls names must be there
// already: later they may only change.
func (f *Fields) Security() Security {
	s := Security{ServerName: f.String(fieldTLSServerName)}
	_, enabled, err := f.p.FieldTLSToggled(fieldTLS)
	if err != nil {
		f.Note(fmt.Errorf("tls: %w", err))
	}
	switch {
	case enabled:
		s.TLS = func() (*tls.Config, error) {
			c, _, err := f.p.FieldTLSToggled(fieldTLS)
			return c, err
		}
	case s.ServerName != "":
		f.Note(fmt.Errorf("tls_server_name is %q and TLS is not on: write tls: { enabled: true }, or leave tls_server_name out", s.ServerName))
	}
	items, err := f.p.FieldObjectList(fieldSASL)
	f.Note(err)
	if len(items) > 1 {
		f.Note(fmt.Errorf("sasl has %d items: write one, since a broker hangs up on a client that tries another mechanism first", len(items)))
	}
	for _, item := range items {
		r := NewFields(item)
		c := Credentials{Mechanism: r.String(fieldMechanism), Username: r.String(fieldUsername), Password: r.String(fieldPassword), Token: r.String(fieldToken)}
		if item.Contains(fieldExtensions) {
			c.Extensions, err = item.FieldStringMap(fieldExtensions)
			r.Note(err)
		}
		r.Note(c.check())
		f.Note(r.Err())
		s.SASL = &c
	}
	return s
}
