package roles

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
	"imgo/config"
	"imgo/internal/wait/waittest"
	"imgo/transport/transporttest"
)

// TestAwaitKafkaPauses checks that errors that come at once are not met by tries without a pause.
func TestAwaitKafkaPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		tries := 0
		_, err := awaitKafka(ctx, &kafka{process: &process{log: zerolog.Nop()}}, func(context.Context) (int, error) {
			if tries++; tries > 1000 {
				t.Fatal("there is no pause")
			}
			return 0, errors.New("not yet")
		})
		if !errors.Is(err, context.DeadlineExceeded) || tries < 10 || tries > 40 {
			t.Errorf("%d tries in 10 s, then %v", tries, err)
		}
	})
}

// TestKafkaCertificatesAreReadAgain gives Kafka and imgo another certificate and CA while imgo runs. Each self-signed
// certificate is its own CA.
func TestKafkaCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := transporttest.WriteCert(t, dir, "first")
	// Kafka takes only clients with the certificate that is in the files when it is told to trust them.
	var broker atomic.Pointer[tls.Config]
	trust := func() {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		broker.Store(&tls.Config{
			Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert,
			VerifyConnection: func(c tls.ConnectionState) error {
				if !c.PeerCertificates[0].Equal(pair.Leaf) {
					return errors.New("another certificate")
				}
				return nil
			},
		})
	}
	trust()
	fake := kafkatest.New(t, kafkatest.Options{TLS: &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return broker.Load(), nil },
	}})
	var log waittest.Log
	k := &kafka{process: &process{log: zerolog.New(&log), cfg: config.Config{
		Kafka: config.Kafka{TLS: true, TLSCert: cert, TLSKey: key, TLSCA: cert},
	}}}
	secure, err := k.tls()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	b, err := bus.Open(ctx, bus.Options{Brokers: fake.Brokers(), Prefix: "test", TLS: secure, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	kept, err := b.Log(ctx, bus.TopicOptions{Name: "kept", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	reconnect := func(when string) {
		t.Helper()
		fake.Stop()
		fake.Resume()
		if _, err := kept.Append(ctx, 0, []byte(when)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	reconnect("with the first certificate")
	transporttest.WriteCert(t, dir, "second")
	trust()
	reconnect("with the second certificate")
	if err := os.WriteFile(cert, []byte("half a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	reconnect("with a file that cannot be loaded")
	log.WaitFor(t, "the former certificate stays in use")
}

func TestKafkaCertificates(t *testing.T) {
	cert, key := transporttest.WriteCert(t, t.TempDir(), "test")
	for name, test := range map[string]struct {
		files       config.Kafka
		certs       int
		ownCA       bool
		wantedError string
	}{
		"no files":         {},
		"a CA":             {files: config.Kafka{TLSCA: cert}, ownCA: true},
		"a certificate":    {files: config.Kafka{TLSCert: cert, TLSKey: key}, certs: 1},
		"no such file":     {files: config.Kafka{TLSCA: cert + "x"}, wantedError: cert + "x"},
		"a CA without one": {files: config.Kafka{TLSCA: key}, wantedError: "no certificate"},
		"another key":      {files: config.Kafka{TLSCert: cert, TLSKey: cert}, wantedError: "kafka.tls_key"},
	} {
		test.files.TLS = true
		secure, err := (&kafka{process: &process{cfg: config.Config{Kafka: test.files}, log: zerolog.Nop()}}).tls()
		if test.wantedError != "" {
			if err == nil || !strings.Contains(err.Error(), test.wantedError) {
				t.Errorf("%s: %v, want an error with %q", name, err, test.wantedError)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c := secure(); len(c.Certificates) != test.certs || (c.RootCAs != nil) != test.ownCA {
			t.Errorf("%s: %d certificates; a CA of its own: %t", name, len(c.Certificates), c.RootCAs != nil)
		}
	}
}
