package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
)

// errCertificates: files that tls names cannot be read, or hold no certificates.
var errCertificates = errors.New("the certificates that tls names cannot be used")

// InTLS tells whether a connection failed for its TLS: certificates that cannot
// be used or that the other side does not like, or a side that speaks no TLS.
func InTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		header       tls.RecordHeaderError
		authority    x509.UnknownAuthorityError
		invalid      x509.CertificateInvalidError
		host         x509.HostnameError
	)
	return errors.Is(err, errCertificates) || alertFrom(err) ||
		errors.As(err, &verification) || errors.As(err, &header) ||
		errors.As(err, &authority) || errors.As(err, &invalid) || errors.As(err, &host)
}

// alertFrom tells whether the other side ended the handshake by a TLS alert, for
// which crypto/tls exports no type.
func alertFrom(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && strings.Contains(err.Error(), "remote error: tls: ")
}
