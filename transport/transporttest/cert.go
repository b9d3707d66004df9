package transporttest

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"imgo/internal/selfsigned"
)

// WriteCert makes a self-signed certificate for loopback with the given common name. It writes the
// certificate and its key into dir and replaces existing files.
func WriteCert(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile, err := selfsigned.Write(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// ClientTLS returns a configuration that trusts the certificate in certFile.
func ClientTLS(t *testing.T, certFile string) *tls.Config {
	t.Helper()
	b, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatalf("%s holds no certificate", certFile)
	}
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}
