package transport

import (
	"crypto/tls"
	"errors"
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
	c.seen = c.read()
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
	seen    contents // of the files at the last attempt to load them
}

// contents are the contents of the two files. Their size and time say too little: a file that
// replaces another one may have the same.
type contents struct {
	cert, key string
	err       string // of reading one of them
}

func (c *certificate) read() (s contents) {
	cert, err := os.ReadFile(c.certFile)
	key, keyErr := os.ReadFile(c.keyFile)
	s.cert, s.key = string(cert), string(key)
	if err = errors.Join(err, keyErr); err != nil {
		s.err = err.Error()
	}
	return s
}

// load makes the pair of the contents that were seen.
func (c *certificate) load() error {
	err := errors.New(c.seen.err)
	var pair tls.Certificate
	if c.seen.err == "" {
		pair, err = tls.X509KeyPair([]byte(c.seen.cert), []byte(c.seen.key))
	}
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
		if s := c.read(); s != c.seen {
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
