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

// certFiles has a certificate, its key and the CA. They are read again when they have
// changed, which each handshake checks.
type certFiles struct {
	cert, key, ca string
	log           zerolog.Logger

	mu     sync.Mutex
	seen   [3]fileVersion // of cert, key and ca as loaded
	loaded tls.Certificate
	roots  *x509.CertPool
}

// fileVersion distinguishes the versions of a file.
type fileVersion struct {
	modified time.Time
	size     int64
}

func openCertFiles(cert, key, ca string, log zerolog.Logger) (*certFiles, error) {
	if cert == "" || key == "" || ca == "" {
		return nil, errors.New("TLS between nodes needs all three: a certificate, its key and the CA of the cluster")
	}
	f := &certFiles{cert: cert, key: key, ca: ca, log: log}
	if _, err := f.reload(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *certFiles) versions() (v [3]fileVersion, err error) {
	for i, name := range []string{f.cert, f.key, f.ca} {
		info, err := os.Stat(name)
		if err != nil {
			return v, fmt.Errorf("look at a file of TLS between nodes: %w", err)
		}
		v[i] = fileVersion{info.ModTime(), info.Size()}
	}
	return v, nil
}

// reload loads the files if they have changed, and reports that. f.seen changes only if
// the files fit together. So files of which only some are replaced are read again at the
// next handshake.
func (f *certFiles) reload() (changed bool, err error) {
	seen, err := f.versions()
	if err != nil || seen == f.seen {
		return false, err
	}
	if err := f.load(); err != nil {
		return false, err
	}
	f.seen = seen
	return true, nil
}

// load reads the files. If that fails, what was loaded before stays.
func (f *certFiles) load() error {
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

// current returns the newest certificate and CA that could be loaded.
func (f *certFiles) current() (*tls.Certificate, *x509.CertPool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch changed, err := f.reload(); {
	case err != nil:
		f.log.Error().Err(err).Msg("the former certificate stays in use")
	case changed:
		f.log.Info().Str("certificate", f.cert).Msg("new certificate for other nodes in use")
	}
	cert := f.loaded
	return &cert, f.roots
}

// config returns a TLS configuration that uses the files as they are at each handshake.
func (f *certFiles) config(caller bool) *tls.Config {
	usage := x509.ExtKeyUsageClientAuth // a server checks the certificate of a caller
	if caller {
		usage = x509.ExtKeyUsageServerAuth
	}
	own := func() (*tls.Certificate, error) { cert, _ := f.current(); return cert, nil }
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
