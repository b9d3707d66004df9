package transport_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"imgo/internal/wait/waittest"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// served returns the common name of the certificate that a handshake with cfg presents.
func served(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	for _, c := range []net.Conn{near, far} {
		_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
	}
	var ends sync.WaitGroup
	ends.Go(func() {
		_ = tls.Server(far, cfg).Handshake()
		_ = far.Close()
	})
	defer ends.Wait()
	c := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	// The handshake is over for the client while the server still writes session tickets.
	_, _ = io.Copy(io.Discard, near)
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestReloadingTLS(t *testing.T) { synctest.Test(t, testReloadingTLS) }

func testReloadingTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := transporttest.WriteCert(t, dir, "first")
	var log waittest.Log
	cfg, err := transport.ReloadingTLS(certFile, keyFile, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MinVersion != tls.VersionTLS12 {
		t.Errorf("versions from %x are let in", cfg.MinVersion)
	}
	if got := served(t, cfg); got != "first" {
		t.Fatalf("serves %q", got)
	}

	transporttest.WriteCert(t, dir, "second")
	if got := served(t, cfg); got != "first" {
		t.Errorf("serves %q: the files were looked at twice in a second", got)
	}
	time.Sleep(time.Second)
	if got := served(t, cfg); got != "second" {
		t.Fatalf("serves %q a second after the files changed", got)
	}

	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		time.Sleep(time.Second)
		if got, n := served(t, cfg), log.Count(`"level":"error"`); got != "second" || n != 1 {
			t.Errorf("serves %q, %d errors logged for one broken file", got, n)
		}
	}

	transporttest.WriteCert(t, dir, "third")
	time.Sleep(time.Second)
	if got := served(t, cfg); got != "third" {
		t.Fatalf("serves %q a second after the files were fixed", got)
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if got, n := served(t, cfg), log.Count(`"level":"error"`); got != "third" || n != 2 {
		t.Errorf("serves %q, %d errors logged in all, after the key went missing", got, n)
	}
}

// TestReloadingTLSComparesContents replaces the files by others of the same size and time.
func TestReloadingTLSComparesContents(t *testing.T) {
	synctest.Test(t, testReloadingTLSComparesContents)
}

func testReloadingTLSComparesContents(t *testing.T) {
	dir, then := t.TempDir(), time.Now()
	write := func(name string) (certFile, keyFile string) {
		certFile, keyFile = transporttest.WriteCert(t, dir, name)
		for _, file := range []string{certFile, keyFile} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, bytes.Repeat([]byte("\n"), 4096-len(b))...)
			if err := errors.Join(os.WriteFile(file, b, 0o600), os.Chtimes(file, then, then)); err != nil {
				t.Fatal(err)
			}
		}
		return certFile, keyFile
	}
	certFile, keyFile := write("first")
	cfg, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	write("other")
	time.Sleep(time.Second)
	if got := served(t, cfg); got != "other" {
		t.Errorf("serves %q a second after the files changed", got)
	}
}

func TestReloadingTLSWantsAGoodStart(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := transporttest.WriteCert(t, dir, "imgo")
	missing := filepath.Join(dir, "missing.pem")
	for _, pair := range [][2]string{{missing, keyFile}, {certFile, missing}, {keyFile, certFile}} {
		if _, err := transport.ReloadingTLS(pair[0], pair[1], zerolog.Nop()); err == nil || !strings.Contains(err.Error(), pair[0]) {
			t.Errorf("ReloadingTLS(%v): %v, want an error that names the file", pair, err)
		}
	}
}
