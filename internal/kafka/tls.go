package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// dialTimeout bounds the opening of a connection, TLS handshake included.
const dialTimeout = 10 * time.Second

// dial opens connections by TLS, with the certificates as they are now. Whatever
// fails is an error of dialling, as a refused connection is: the client then goes
// on to the next broker, and records wait.
func (s Security) dial(timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conf, err := s.TLS()
		if err != nil {
			return nil, notDialled(network, fmt.Errorf("%w: %w", errCertificates, err))
		}
		if s.ServerName != "" {
			conf = conf.Clone()
			conf.ServerName = s.ServerName
		}
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: timeout}, Config: conf}
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, notDialled(network, err)
		}
		return conn, nil
	}
}

// notDialled makes err an error of dialling, if it is not one yet.
func notDialled(network string, err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		return err
	}
	return &net.OpError{Op: "dial", Net: network, Err: err}
}
