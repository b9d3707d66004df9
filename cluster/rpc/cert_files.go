package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// files are a certificate, its key and the CA, read again when they change. A
// change is looked for at each handshake.
type files struct {
	cert, key, ca string
	log           zerolog.Logger

	mu     sync.Mutex
	seen   [3]stamp
	loaded tls.Certificate
	roots  *x509.CertPool
}

// stamp tells one version of a file from another.
type stamp struct {
	at   time.Time
	size int64
}

func openFiles(cert, key, ca string, log zerolog.Logger) (*files, error) {
	if cert == "" || key == "" || ca == "" {
		return nil, errors.New("TLS between nodes needs all three: a certificate, its key and the CA of the cluster")
	}
	f := &files{cert: cert, key: key, ca: ca, log: log}
	seen, err := f.stamps()
	if err != nil {
		return nil, err
	}
	if err := f.load(); err != nil {
		return nil, err
	}
	f.seen = seen
	return f, nil
}

func (f *files) stamps() (s [3]stamp, err error) {
	for i, name := range []string{f.cert, f.key, f.ca} {
		info, err := os.Stat(name)
		if err != nil {
			return s, fmt.Errorf("look at a file of TLS between nodes: %w", err)
		}
		s[i] = stamp{info.ModTime(), info.Size()}
	}
	return s, nil
}

// load reads the files; what was loaded before stays when that fails.
func (f *files) load() error {
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("load the certificate %s and key %s for other nodes: %w", f.cert, f.key, err)
	}
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return fmt.Errorf("load the CA of the cluster: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("load the CA of the cluster: no certificate (PEM) in %s", f.ca)
	}
	f.loaded, f.roots = cert, roots
	return nil
}

// current are the newest good certificate and CA.
func (f *files) current() (*tls.Certificate, *x509.CertPool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seen, err := f.stamps(); err != nil {
		f.log.Error().Err(err).Msg("the former certificate stays in use")
	} else if seen != f.seen {
		// The stamps are kept only when all files fit together: a pair that is
		// half replaced is read again at the next handshake.
		if err := f.load(); err != nil {
			f.log.Error().Err(err).Msg("the former certificate stays in use")
		} else {
			f.seen = seen
			f.log.Info().Str("certificate", f.cert).Msg("new certificate for other nodes in use")
		}
	}
	cert := f.loaded
	return &cert, f.roots
}

// config is TLS with the files as they are at each handshake.
func (f *files) config(caller bool) *tls.Config {
	usage := x509.ExtKeyUsageClientAuth // of the caller, which the server checks
	if caller {
		usage = x509.ExtKeyUsageServerAuth
	}
	own := func() (*tls.Certificate, error) { cert, _ := f.current(); return cert, nil }
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() },
		ClientAuth:           tls.RequireAnyClientCert,
		// VerifyConnection verifies the chain, with the CA of now.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) == 0 {
				return errors.New("the other side shows no certificate")
			}
			_, roots := f.current()
			o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
			for _, c := range c.PeerCertificates[1:] {
				o.Intermediates.AddCert(c)
			}
			if _, err := c.PeerCertificates[0].Verify(o); err != nil {
				return fmt.Errorf("the other side's certificate is not one of the cluster's CA: %w", err)
			}
			return nil
		},
	}
}
