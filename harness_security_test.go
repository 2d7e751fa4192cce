package kafkafailover_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kafka-failover/kafka-failover/internal/kafkatest"
)

// keys are the authorities, certificates and files of the secure listeners that
// the shared clusters have.
type keys struct {
	ours, strangers      *kafkatest.Authority
	broker, named, stale kafkatest.Identity
	client, staleClient  kafkatest.Identity
	strange              kafkatest.Identity // a client's, of the strangers
	ca                   string             // file with the certificate of ours
}

const (
	// brokerName is the only name in the certificates of the listener MTLS.
	brokerName    = "broker.example"
	plainUser     = "plain"
	plainPassword = "plain-secret"
)

var theKeys = sync.OnceValue(func() *keys {
	k := &keys{ca: filepath.Join(scratch, "ca.pem")}
	var err error
	must := func(id kafkatest.Identity, e error) kafkatest.Identity {
		if err == nil {
			err = e
		}
		return id
	}
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	for a, name := range map[**kafkatest.Authority]string{&k.ours: "ours", &k.strangers: "strangers"} {
		if *a, err = kafkatest.NewAuthority(name); err != nil {
			panic(err)
		}
	}
	k.broker = must(k.ours.Issue(soon, "127.0.0.1", "localhost"))
	k.named = must(k.ours.Issue(soon, brokerName))
	k.stale = must(k.ours.Issue(past, "127.0.0.1"))
	k.client = must(k.ours.Issue(soon, "relay"))
	k.staleClient = must(k.ours.Issue(past, "relay"))
	k.strange = must(k.strangers.Issue(soon, "relay"))
	if err == nil {
		err = os.WriteFile(k.ca, k.ours.PEM, 0o600)
	}
	if err != nil {
		panic(err)
	}
	return k
})

// The secure listeners of the shared clusters.
const (
	atSCRAM = "SCRAM" // SASL_SSL
	atMTLS  = "MTLS"  // SSL that wants client certificates
	atStale = "STALE" // SASL_SSL, PLAIN only, with an expired certificate
)

func secureListeners() []kafkatest.Listener {
	k := theKeys()
	plain := kafkatest.Plain(plainUser, plainPassword)
	return []kafkatest.Listener{
		{Name: atSCRAM, Identity: k.broker, SASL: []string{kafkatest.Scram256, kafkatest.Scram512, plain, kafkatest.Bearer()}},
		{Name: atMTLS, Identity: k.named, ClientCA: k.ours.PEM},
		{Name: atStale, Identity: k.stale, SASL: []string{plain}},
	}
}

// bearer is an unsigned token (RFC 7515) that is valid for an hour.
func bearer() string {
	part := base64.RawURLEncoding.EncodeToString
	now := time.Now().Unix()
	return part([]byte(`{"alg":"none"}`)) + "." + part(fmt.Appendf(nil, `{"sub":"relay","iat":%d,"exp":%d}`, now, now+3600)) + "."
}

// place is a cluster as a configuration names it.
type place struct {
	brokers  []string
	security string // fields, one per line
}

// scram is the listener SCRAM with a user's name and password.
func scram(c *kafkatest.Cluster, user, password string) place {
	return place{c.At(atSCRAM), fmt.Sprintf("tls: { enabled: true, root_cas_file: %q }\nsasl: [ { mechanism: SCRAM-SHA-512, username: %q, password: %q } ]", theKeys().ca, user, password)}
}

// mtls is the listener MTLS with a client certificate in these files.
func mtls(c *kafkatest.Cluster, cert, key string) place {
	return place{c.At(atMTLS), fmt.Sprintf("tls_server_name: %s\ntls: { enabled: true, root_cas_file: %q, client_certs: [ { cert_file: %q, key_file: %q } ] }", brokerName, theKeys().ca, cert, key)}
}

// writeIdentity writes an identity into files, in one step each.
func writeIdentity(t testing.TB, id kafkatest.Identity, cert, key string) {
	t.Helper()
	for name, pem := range map[string][]byte{key: id.Key, cert: id.Certificate} {
		if err := os.WriteFile(name+".new", pem, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
}

// between is a pipeline between places: the target and the sources.
func (w *world) between(p pipeline, target place, sources ...place) pipeline {
	list := ""
	for i, s := range sources {
		list += fmt.Sprintf("- name: dc%d\n  seed_brokers: [ %q ]\n%s", i+1, strings.Join(s.brokers, ","), indent(s.security, 2))
	}
	in := "sources:\n" + indent(list, 2) + "topics: [ " + p.topics + " ]\n" + quickHealth + "\nretry: { initial_interval: 100ms, max_interval: 500ms }\n" + p.input
	out := fmt.Sprintf("seed_brokers: [ %q ]\nrelay_id: %s\nprogress_topic: %s\n%s\n%s", strings.Join(target.brokers, ","), w.name, w.topic("progress"), target.security, p.output)
	p.inputYAML = "kafka_failover:\n" + indent(in, 4)
	p.outputYAML = "kafka_failover:\n" + indent(out, 4)
	return p
}

var scrams = []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512}

// user gives a user a SCRAM password, through the admin API.
func (w *world) user(c *kafkatest.Cluster, name, password string) {
	w.t.Helper()
	for _, m := range scrams {
		w.alterUsers(c, nil, []kadm.UpsertSCRAM{{User: name, Mechanism: m, Iterations: 4096, Password: password}})
	}
}

func (w *world) removeUser(c *kafkatest.Cluster, name string) {
	w.t.Helper()
	for _, m := range scrams {
		w.alterUsers(c, []kadm.DeleteSCRAM{{User: name, Mechanism: m}}, nil)
	}
}

func (w *world) alterUsers(c *kafkatest.Cluster, del []kadm.DeleteSCRAM, upsert []kadm.UpsertSCRAM) {
	w.t.Helper()
	done, err := c.Admin(w.t).AlterUserSCRAMs(testContext(w.t), del, upsert)
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// mustBeUnready waits until /ready answers 503 with a text.
func (p *proc) mustBeUnready(text string) {
	p.t.Helper()
	eventually(p.t, 30*time.Second, fmt.Sprintf("/ready is 503 with %q", text), func() bool {
		code, body := p.ready()
		return code == 503 && strings.Contains(strings.ReplaceAll(body, `\`, ""), text)
	})
}

func (p *proc) mustBeReady() {
	p.t.Helper()
	eventually(p.t, 30*time.Second, "/ready is 200", func() bool { code, _ := p.ready(); return code == 200 })
}
