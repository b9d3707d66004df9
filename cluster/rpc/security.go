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
)

// Security is how nodes know one another. All nodes of a cluster must have the
// same kind.
//
//   - Nothing set: plain connections, which anybody who can reach the port may
//     make. For loopback only.
//   - Secret: TLS 1.3 with one identity for all nodes, derived from the secret.
//     The secret itself never crosses the wire, but who connects can try guesses
//     of it at leisure: it must be long and random, not a word.
//   - The files: TLS 1.3 with certificates of the cluster's own CA on both
//     sides; they are read again when they change. Names in certificates are
//     not looked at, since nodes are called by addresses that come and go: who
//     has a certificate of the CA is a node. They win over Secret.
type Security struct {
	Secret                    string
	CertFile, KeyFile, CAFile string
}

// refusalPeriod is how often a refused handshake is logged.
const refusalPeriod = 10 * time.Second

// errOtherSecret is the verdict on a node with another secret.
var errOtherSecret = errors.New("the node there has another cluster.secret: give all nodes of the cluster the same")

// server are the credentials that a server asks for and shows.
func (s Security) server(log zerolog.Logger) (credentials.TransportCredentials, error) {
	return s.credentials(log, false)
}

// client are the credentials of a caller.
func (s Security) client(log zerolog.Logger) (credentials.TransportCredentials, error) {
	return s.credentials(log, true)
}

func (s Security) credentials(log zerolog.Logger, caller bool) (credentials.TransportCredentials, error) {
	var (
		config *tls.Config
		err    error
	)
	switch {
	case s.CertFile != "" || s.KeyFile != "" || s.CAFile != "":
		var f *files
		if f, err = openFiles(s.CertFile, s.KeyFile, s.CAFile, log); err == nil {
			config = f.config(caller)
		}
	case s.Secret != "":
		config, err = secretConfig(s.Secret)
	default:
		return insecure.NewCredentials(), nil
	}
	if err != nil {
		return nil, err
	}
	return &loud{
		TransportCredentials: credentials.NewTLS(config),
		log:                  log.Sample(&zerolog.BurstSampler{Burst: 1, Period: refusalPeriod}),
		secret:               s.CertFile == "",
	}, nil
}

// secretConfig is TLS between nodes that have the same secret: the key of
// their certificate is made from it, and each checks that the other has shown
// the same key, and thereby holds it.
func secretConfig(secret string) (*tls.Config, error) {
	seed, err := hkdf.Key(sha256.New, []byte(secret), nil, "imgo rpc identity 1", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the identity from cluster.secret: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	own := key.Public().(ed25519.PublicKey)
	// Nobody looks at the times: the key is what counts, and clocks differ.
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

// loud logs handshakes that fail, once in a while, and says what to do.
type loud struct {
	credentials.TransportCredentials
	log    zerolog.Logger
	secret bool
}

// Clone implements credentials.TransportCredentials.
func (l *loud) Clone() credentials.TransportCredentials {
	c := *l
	c.TransportCredentials = l.TransportCredentials.Clone()
	return &c
}

// ClientHandshake implements credentials.TransportCredentials.
func (l *loud) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
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
func (l *loud) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := l.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		err = l.explain(err)
		l.log.Error().Err(err).Stringer("from", conn.RemoteAddr()).Msg("a connection to the port for nodes was refused")
	}
	return secured, info, err
}

// explain adds the mend to a failed handshake's error.
func (l *loud) explain(err error) error {
	var (
		plain tls.RecordHeaderError
		alert tls.AlertError
	)
	what := "cluster's certificates and CA"
	if l.secret {
		what = "cluster.secret"
	}
	switch {
	case errors.Is(err, errOtherSecret):
		return err
	case errors.As(err, &plain):
		return fmt.Errorf("%w: what is there speaks no TLS: give all nodes of the cluster the same %s", err, what)
	case errors.As(err, &alert), isRemoteAlert(err):
		return fmt.Errorf("%w: the other side refused this node: give all nodes of the cluster the same %s", err, what)
	}
	return err
}

// isRemoteAlert says whether the other side ended a handshake with an alert.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
