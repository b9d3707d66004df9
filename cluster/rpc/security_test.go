package rpc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/cluster/rpc"
	"imgo/envelope"
	"imgo/internal/wait/waittest"

	"github.com/rs/zerolog"
)

// ca is a certificate authority.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the cluster's CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{t, cert, key}
}

// issue writes a certificate, its key and the CA's to dir.
func (c *ca) issue(dir string) rpc.Security {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "a node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			c.t.Fatal(err)
		}
		return path
	}
	return rpc.Security{
		CertFile: write("cert.pem", "CERTIFICATE", der), KeyFile: write("key.pem", "PRIVATE KEY", keyDER),
		CAFile: write("ca.pem", "CERTIFICATE", c.cert.Raw),
	}
}

func TestWhoIsLetIn(t *testing.T) {
	authority := newCA(t)
	secret := rpc.Security{Secret: "correct horse battery staple"}
	certificates := authority.issue(t.TempDir())
	for _, tt := range []struct {
		name           string
		server, client rpc.Security
		// The expected texts in the error and in both logs. If all are empty the call succeeds.
		inError, serverLog, clientLog string
	}{
		{name: "plain"},
		{name: "the same secret", server: secret, client: secret},
		{name: "another secret", server: secret, client: rpc.Security{Secret: "wrong"},
			inError: "another cluster.secret", serverLog: "cluster.secret", clientLog: "another cluster.secret"},
		{name: "no secret against one", server: secret, serverLog: "cluster.secret", inError: " "},
		{name: "a secret against none", client: secret, inError: "cluster.secret", clientLog: "cluster.secret"},
		{name: "certificates of one CA", server: certificates, client: authority.issue(t.TempDir())},
		{name: "certificates of two CAs", server: certificates, client: newCA(t).issue(t.TempDir()),
			inError: "certificate", serverLog: "certificates", clientLog: "not one of the cluster's CA"},
		{name: "a secret against certificates", server: certificates, client: secret,
			inError: "cluster.secret", serverLog: "certificates", clientLog: "cluster.secret"},
		{name: "plain against certificates", server: certificates, inError: " ", serverLog: "certificates"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var serverLog, clientLog waittest.Log
			addr, _ := serve(t, rpc.ServerOptions{Security: tt.server, Log: zerolog.New(&serverLog)}, roles{ready}.services())
			peer := newPool(t, rpc.PoolOptions{Security: tt.client, Log: zerolog.New(&clientLog)}).Node(addr)
			if tt.inError == "" {
				askStatus(t, peer)
				return
			}
			for range 3 {
				_, err := peer.Status().Status(within(t, waitLimit), &envelope.StatusRequest{})
				if !errors.Is(err, envelope.ErrUnavailable) || !strings.Contains(err.Error(), tt.inError) {
					t.Fatalf("not refused, or without the reason: %v", err)
				}
			}
			if tt.serverLog != "" {
				serverLog.WaitFor(t, tt.serverLog)
			}
			if tt.clientLog != "" {
				clientLog.WaitFor(t, tt.clientLog)
			}
			if n := max(serverLog.Count("\n"), clientLog.Count("\n")); n > 1 {
				t.Errorf("%d lines for one node that is refused again and again", n)
			}
		})
	}
}

// TestServerDemandsTheSecret checks that the server refuses a caller without the secret, even one that
// accepts any server.
func TestServerDemandsTheSecret(t *testing.T) {
	var log waittest.Log
	addr, _ := serve(t, rpc.ServerOptions{Security: rpc.Security{Secret: "right"}, Log: zerolog.New(&log)}, roles{ready}.services())
	for name, s := range map[string]intruder{"no certificate": {}, "a certificate of its own": {own: true}} {
		if err := s.call(t, addr); err == nil {
			t.Errorf("%s: let in", name)
		}
	}
}

func TestSecretIsNotOnTheWire(t *testing.T) {
	const body = "a body that nobody may read on the way"
	s := rpc.Security{Secret: "a secret that nobody may read on the way"}
	addr, _ := serve(t, rpc.ServerOptions{Security: s}, roles{ready}.services())
	var tap wiretap
	peer := newPool(t, rpc.PoolOptions{Security: s, Faults: rpc.Faults{Dial: tap.dial}}).Node(addr)
	askStatus(t, peer)
	if _, err := peer.Logic().Connect(within(t, waitLimit), &envelope.ConnectRequest{Token: body}); err == nil {
		t.Log("answered")
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if tap.b.Len() == 0 || bytes.Contains(tap.b.Bytes(), []byte(body)) || bytes.Contains(tap.b.Bytes(), []byte(s.Secret)) {
		t.Errorf("readable on the wire (%d bytes)", tap.b.Len())
	}
}

// wiretap records the bytes that a caller sends.
type wiretap struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *wiretap) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	return &tapped{c, w}, err
}

type tapped struct {
	net.Conn
	w *wiretap
}

func (c *tapped) Write(b []byte) (int, error) {
	c.w.mu.Lock()
	c.w.b.Write(b)
	c.w.mu.Unlock()
	return c.Conn.Write(b)
}

func TestCertificatesAreReadAgain(t *testing.T) {
	first, second := newCA(t), newCA(t)
	serverDir, clientDir := t.TempDir(), t.TempDir()
	server, client := first.issue(serverDir), first.issue(clientDir)
	var log waittest.Log
	addr, _ := serve(t, rpc.ServerOptions{Security: server, Log: zerolog.New(&log)}, roles{ready}.services())
	pool := newPool(t, rpc.PoolOptions{Security: client})
	askStatus(t, pool.Node(addr))

	// The server changes to another CA, so new connections fail.
	second.issue(serverDir)
	pool.Keep(nil)
	if _, err := pool.Node(addr).Status().Status(within(t, waitLimit), &envelope.StatusRequest{}); !errors.Is(err, envelope.ErrUnavailable) {
		t.Fatalf("certificates of two CAs: %v", err)
	}
	// They succeed again once the caller changes too.
	second.issue(clientDir)
	askStatus(t, pool.Node(addr))

	// After an unreadable certificate the former one stays in use.
	if err := os.WriteFile(server.CertFile, []byte("half a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	pool.Keep(nil)
	askStatus(t, pool.Node(addr))
	log.WaitFor(t, "the former certificate stays in use")
}

func TestBadFiles(t *testing.T) {
	good := newCA(t).issue(t.TempDir())
	for name, s := range map[string]rpc.Security{
		"no CA":        {CertFile: good.CertFile, KeyFile: good.KeyFile},
		"no such file": {CertFile: good.CertFile + "x", KeyFile: good.KeyFile, CAFile: good.CAFile},
		"not a CA":     {CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: good.KeyFile},
		"no key":       {CertFile: good.CertFile, KeyFile: good.CAFile, CAFile: good.CAFile},
	} {
		if _, err := rpc.NewServer(rpc.ServerOptions{Listen: "127.0.0.1:0", Security: s}); err == nil {
			t.Errorf("server with %s: no error", name)
		}
		if _, err := rpc.NewPool(rpc.PoolOptions{Security: s}); err == nil {
			t.Errorf("pool with %s: no error", name)
		}
	}
}
