package kafkatest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Listener is a further listener of each node, for clients that have to prove
// who they are, or that want the brokers to.
type Listener struct {
	// Name is of capital letters.
	Name string
	// Identity of the brokers: the listener speaks TLS. Zero: plaintext.
	Identity Identity
	// ClientCA, in PEM: clients must show a certificate that it signed.
	ClientCA []byte
	// SASL are the mechanisms, with the module that Kafka has for each behind a
	// colon: "PLAIN:plain.PlainLoginModule required user_a=\"b\";".
	SASL []string
}

// The mechanisms of Listener.SASL that the cluster keeps the users of.
const (
	Scram256 = "SCRAM-SHA-256:scram.ScramLoginModule required;"
	Scram512 = "SCRAM-SHA-512:scram.ScramLoginModule required;"
)

// Plain is a mechanism of Listener.SASL with one user.
func Plain(user, password string) string {
	return fmt.Sprintf("PLAIN:plain.PlainLoginModule required user_%s=%q;", user, password)
}

// Bearer is OAUTHBEARER with unsigned tokens.
func Bearer() string {
	return `OAUTHBEARER:oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="unused";`
}

func (l Listener) protocol() string {
	tls, sasl := len(l.Identity.Key) > 0, len(l.SASL) > 0
	switch {
	case tls && sasl:
		return "SASL_SSL"
	case tls:
		return "SSL"
	case sasl:
		return "SASL_PLAINTEXT"
	}
	return "PLAINTEXT"
}

// configure adds the listener to a node's settings, and writes its keys into the
// node's folder.
func (l Listener) configure(props map[string]string, dir string, port int) error {
	address := fmt.Sprintf(",%s://127.0.0.1:%d", l.Name, port)
	props["listeners"] += address
	props["advertised.listeners"] += address
	props["listener.security.protocol.map"] += "," + l.Name + ":" + l.protocol()
	props["inter.broker.listener.name"] = "PLAINTEXT"
	own := "listener.name." + strings.ToLower(l.Name) + "."
	var mechanisms []string
	for _, m := range l.SASL {
		name, module, _ := strings.Cut(m, ":")
		mechanisms = append(mechanisms, name)
		props[own+strings.ToLower(name)+".sasl.jaas.config"] = "org.apache.kafka.common.security." + module
	}
	if len(mechanisms) > 0 {
		props[own+"sasl.enabled.mechanisms"] = strings.Join(mechanisms, ",")
	}
	stores := map[string][]byte{}
	if len(l.Identity.Key) > 0 {
		stores["keystore"] = append(l.Identity.Key[:len(l.Identity.Key):len(l.Identity.Key)], l.Identity.Certificate...)
	}
	if len(l.ClientCA) > 0 {
		stores["truststore"] = l.ClientCA
		props[own+"ssl.client.auth"] = "required"
	}
	for store, pem := range stores {
		file := filepath.Join(dir, l.Name+"."+store+".pem")
		if err := os.WriteFile(file, pem, 0o600); err != nil {
			return err
		}
		props[own+"ssl."+store+".type"], props[own+"ssl."+store+".location"] = "PEM", file
	}
	return nil
}

// At are the addresses of a listener of Options.Listeners.
func (c *Cluster) At(listener string) []string {
	out := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = fmt.Sprintf("127.0.0.1:%d", n.listeners[listener])
	}
	return out
}
