package kafka

import (
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// What a handshake fails of is told apart from a broker that is not there.
func TestInTLS(t *testing.T) {
	secure, open := httptest.NewUnstartedServer(http.NotFoundHandler()), httptest.NewServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	defer open.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	modern := httptest.NewUnstartedServer(http.NotFoundHandler())
	modern.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	modern.Config.ErrorLog = log.New(io.Discard, "", 0)
	modern.StartTLS()
	defer modern.Close()
	for name, c := range map[string]struct {
		addr string
		most uint16
		want bool
	}{
		"a certificate nobody vouches for": {secure.Listener.Addr().String(), 0, true},
		"a broker that speaks no TLS":      {open.Listener.Addr().String(), 0, true},
		"a broker that ends the handshake": {modern.Listener.Addr().String(), tls.VersionTLS12, true},
		"no broker":                        {gone.Addr().String(), 0, false},
	} {
		_, err := tls.Dial("tcp", c.addr, &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: c.most})
		if err == nil || InTLS(err) != c.want {
			t.Errorf("%s: InTLS is %v for %v", name, !c.want, err)
		}
	}
	unreadable := Security{TLS: func() (*tls.Config, error) { return nil, fs.ErrNotExist }}
	if _, err := unreadable.dial(time.Second)(t.Context(), "tcp", gone.Addr().String()); !InTLS(err) {
		t.Errorf("certificates that cannot be read: %v", err)
	}
	if InTLS(nil) || InTLS(errors.New("x")) {
		t.Error("any error is taken for one of TLS")
	}
}
