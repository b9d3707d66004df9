package rpc

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"imgo/internal/certfile"
)

// Security says how nodes authenticate each other. All nodes of a cluster must have the
// same kind.
//
//   - Nothing is set: connections are not encrypted, and anybody who can reach the port
//     is trusted. This is for loopback only.
//   - Secret: TLS 1.3 with one identity for all nodes, derived from the secret. The
//     secret never crosses the wire. But anybody who can connect can try guesses, so it
//     must be long and random.
//   - The files: TLS 1.3 with certificates of the cluster's own CA on both sides. They
//     are read again when they change. The names in certificates do not count, because
//     the addresses of nodes change: every certificate of the CA is one of a node. The
//     files win over Secret.
type Security struct {
	Secret                    string
	CertFile, KeyFile, CAFile string
}

// refusalPeriod is the shortest time between two log lines about refused handshakes.
const refusalPeriod = 10 * time.Second

// errOtherSecret is the error of a handshake with a node that has another secret.
var errOtherSecret = errors.New("the node there has another cluster.secret: give all nodes of the cluster the same")

// credentials returns the credentials of a caller or a server.
func (s Security) credentials(log zerolog.Logger, caller bool) (credentials.TransportCredentials, error) {
	var (
		config *tls.Config
		err    error
	)
	switch {
	case s.CertFile != "" || s.KeyFile != "" || s.CAFile != "":
		config, err = s.filesConfig(log, caller)
	case s.Secret != "":
		config, err = secretConfig(s.Secret)
	default:
		return insecure.NewCredentials(), nil
	}
	if err != nil {
		return nil, err
	}
	return &loggedCredentials{
		TransportCredentials: credentials.NewTLS(config),
		log:                  log.Sample(&zerolog.BurstSampler{Burst: 1, Period: refusalPeriod}),
		secret:               s.CertFile == "",
	}, nil
}

// filesConfig returns a TLS configuration that uses the files as they are at each handshake.
func (s Security) filesConfig(log zerolog.Logger, caller bool) (*tls.Config, error) {
	if s.CertFile == "" || s.KeyFile == "" || s.CAFile == "" {
		return nil, errors.New("TLS between nodes needs all three: a certificate, its key and the CA of the cluster")
	}
	files := &certfile.Files{Cert: s.CertFile, Key: s.KeyFile, CA: s.CAFile, Log: log}
	usage := x509.ExtKeyUsageClientAuth // a server checks the certificate of a caller
	if caller {
		usage = x509.ExtKeyUsageServerAuth
	}
	own := func() (*tls.Certificate, error) { cert, _ := files.Current(); return cert, nil }
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() },
		ClientAuth:           tls.RequireAnyClientCert,
		// VerifyConnection verifies the chain, with the current CA.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) == 0 {
				return errors.New("the other side shows no certificate")
			}
			_, roots := files.Current()
			o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
			for _, c := range c.PeerCertificates[1:] {
				o.Intermediates.AddCert(c)
			}
			if _, err := c.PeerCertificates[0].Verify(o); err != nil {
				return fmt.Errorf("the other side's certificate is not one of the cluster's CA: %w", err)
			}
			return nil
		},
	}, files.Load()
}

// secretConfig returns the TLS configuration of nodes with a common secret. The key of
// their certificate is derived from it. Each node checks that the other one has proved to
// have the same key.
func secretConfig(secret string) (*tls.Config, error) {
	seed, err := hkdf.Key(sha256.New, []byte(secret), nil, "imgo rpc identity 1", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the identity from cluster.secret: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	own := key.Public().(ed25519.PublicKey)
	// The times are not checked, because clocks differ. Only the key counts.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "imgo"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(nil, template, template, own, key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of cluster.secret: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAnyClientCert,
		// The chain is not verified: VerifyConnection compares the key.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) == 0 {
				return errOtherSecret
			}
			if theirs, ok := c.PeerCertificates[0].PublicKey.(ed25519.PublicKey); !ok || !own.Equal(theirs) {
				return errOtherSecret
			}
			return nil
		},
	}, nil
}

// loggedCredentials logs failed handshakes, at most one in refusalPeriod, with what to
// do.
type loggedCredentials struct {
	credentials.TransportCredentials
	log    zerolog.Logger
	secret bool // the nodes have a secret, not certificates
}

// Clone implements credentials.TransportCredentials.
func (l *loggedCredentials) Clone() credentials.TransportCredentials {
	c := *l
	c.TransportCredentials = l.TransportCredentials.Clone()
	return &c
}

// ClientHandshake implements credentials.TransportCredentials.
func (l *loggedCredentials) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := l.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil {
		err = l.explain(err)
		if ctx.Err() == nil {
			l.log.Error().Err(err).Stringer("node", conn.RemoteAddr()).Msg("another node is not trusted")
		}
	}
	return secured, info, err
}

// ServerHandshake implements credentials.TransportCredentials.
func (l *loggedCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := l.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		err = l.explain(err)
		l.log.Error().Err(err).Stringer("from", conn.RemoteAddr()).Msg("a connection to the port for nodes was refused")
	}
	return secured, info, err
}

// explain adds to a failed handshake's error what to do.
func (l *loggedCredentials) explain(err error) error {
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	setting := "cluster's certificates and CA"
	if l.secret {
		setting = "cluster.secret"
	}
	switch {
	case errors.Is(err, errOtherSecret):
		return err
	case plain:
		return fmt.Errorf("%w: what is there speaks no TLS: give all nodes of the cluster the same %s", err, setting)
	case alert, isRemoteAlert(err):
		return fmt.Errorf("%w: the other side refused this node: give all nodes of the cluster the same %s", err, setting)
	}
	return err
}

// isRemoteAlert reports whether the other side ended a handshake with an alert.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
