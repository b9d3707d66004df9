package transport

import (
	"crypto/tls"
	"time"

	"github.com/rs/zerolog"

	"imgo/internal/certfile"
)

// certCheck is the shortest time between two looks at the files.
const certCheck = time.Second

// ReloadingTLS makes a server's TLS configuration (1.2 and newer) with a
// certificate that follows its PEM files. Handshakes look for changed files, at
// most once a second, and load the pair anew. If that fails, the old pair stays
// in use and the error is logged once. The first load must succeed.
func ReloadingTLS(certFile, keyFile string, log zerolog.Logger) (*tls.Config, error) {
	files := &certfile.Files{Cert: certFile, Key: keyFile, Period: certCheck, Log: log}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, _ := files.Current()
			return pair, nil
		},
	}, files.Load()
}
