package transport

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// certCheck is how often at the most a handshake looks at the files.
const certCheck = time.Second

// ReloadingTLS makes a server's TLS configuration (1.2 and newer) whose
// certificate follows its PEM files: handshakes look, at most once a second,
// whether a file has changed, and load the pair anew. A pair that cannot be
// loaded leaves the old one in use and is logged once. The first load must
// succeed.
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
	seen    stamp // of the files when a load was last tried
}

// stamp tells versions of the two files apart.
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

// current is the certificate for a handshake that begins now.
func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= certCheck {
		c.checked = now
		// The stamp is taken before the load: a file that changes in between
		// is seen as changed next time.
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
