// Package certfile provides TLS certificates that follow their PEM files.
package certfile

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

// Files has a certificate with its key, the certificates of a CA, or both. All fields must be set before the first
// call. It is safe for concurrent use.
type Files struct {
	Cert, Key, CA string
	// Period is the shortest time between two looks at the files.
	Period time.Duration
	Log    zerolog.Logger

	mu     sync.Mutex
	looked time.Time
	seen   [3]string // contents of the files at the last attempt to load them
	cert   *tls.Certificate
	roots  *x509.CertPool
}

// Load loads the files for the first time.
func (f *Files) Load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.loadLocked()
	return err
}

// Current returns the newest certificate and CA that could be loaded. It loads files that have changed. If that
// fails, what was loaded before stays, and the error is logged once. The certificate is empty if there is no Cert, and
// the CA is nil if there is no CA.
func (f *Files) Current() (*tls.Certificate, *x509.CertPool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) >= f.Period {
		switch changed, err := f.loadLocked(); {
		case err != nil:
			f.Log.Error().Err(err).Msg("the former certificate stays in use")
		case changed:
			f.Log.Info().Str("certificate", f.Cert).Str("ca", f.CA).Msg("new certificate in use")
		}
	}
	return f.cert, f.roots
}

// loadLocked loads the files if their contents are not those of the last attempt. Their size and time would say too
// little: a file that replaces another one may have the same.
func (f *Files) loadLocked() (changed bool, err error) {
	f.looked = time.Now()
	var pem [3]string
	for i, name := range []string{f.Cert, f.Key, f.CA} {
		if name != "" {
			b, readErr := os.ReadFile(name)
			pem[i], err = string(b), errors.Join(err, readErr)
		}
	}
	if f.cert != nil && pem == f.seen {
		return false, nil
	}
	f.seen = pem
	var cert tls.Certificate
	if err == nil && f.Cert != "" {
		cert, err = tls.X509KeyPair([]byte(pem[0]), []byte(pem[1]))
	}
	if err != nil {
		return false, fmt.Errorf("load TLS certificate %q with key %q and CA %q: %w", f.Cert, f.Key, f.CA, err)
	}
	var roots *x509.CertPool
	if f.CA != "" {
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM([]byte(pem[2])) {
			return false, fmt.Errorf("load the CA: no certificate (PEM) in %s", f.CA)
		}
	}
	f.cert, f.roots = &cert, roots
	return true, nil
}
