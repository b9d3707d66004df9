package transport

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// certCheck is the shortest time between two looks at the files.
const certCheck = time.Second

// ReloadingTLS makes a server's TLS configuration (1.2 and newer) with a
// certificate that follows its PEM files. Handshakes look for changed files, at
// most once a second, and load the pair anew. If that fails, the old pair stays
// in use and the error is logged once. The first load must succeed.
func ReloadingTLS(certFile, keyFile string, log zerolog.Logger) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	c.seen = c.stamp()
	c.checked = time.Now()
	if err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}, nil
}

// certificate is a certificate with its key and the files that they come from.
type certificate struct {
	certFile, keyFile string
	log               zerolog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	checked time.Time
	seen    stamp // of the files at the last attempt to load them
}

// stamp identifies a version of the two files.
type stamp struct {
	certTime, keyTime time.Time
	certSize, keySize int64
}

func (c *certificate) stamp() (s stamp) {
	if fi, err := os.Stat(c.certFile); err == nil {
		s.certTime, s.certSize = fi.ModTime(), fi.Size()
	}
	if fi, err := os.Stat(c.keyFile); err == nil {
		s.keyTime, s.keySize = fi.ModTime(), fi.Size()
	}
	return s
}

func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load TLS certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair = &pair
	return nil
}

// current returns the certificate for a handshake that begins now.
func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= certCheck {
		c.checked = now
		// The stamp is taken before the load, so a file that changes in between
		// counts as changed the next time.
		if s := c.stamp(); s != c.seen {
			c.seen = s
			if err := c.load(); err != nil {
				c.log.Error().Err(err).Msg("keeping the old TLS certificate")
			} else {
				c.log.Info().Str("file", c.certFile).Msg("loaded the changed TLS certificate")
			}
		}
	}
	return c.pair
}
