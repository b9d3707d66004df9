package bus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
)

func TestLogin(t *testing.T) {
	k := kafkatest.New(t, kafkatest.Options{Users: []kafkatest.User{
		{Mechanism: "PLAIN", Name: "imgo", Password: "the-right-one"},
		{Mechanism: "SCRAM-SHA-256", Name: "imgo", Password: "the-right-one"},
		{Mechanism: "SCRAM-SHA-512", Name: "imgo", Password: "the-right-one"},
	}})
	// Apache Kafka answers a wrong password, but the fake would only close the connection.
	testLogin(t, k.Brokers(), func() func() {
		return k.Cluster.Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.SASLAuthenticate}, TopLevel: true, Err: kerr.SaslAuthenticationFailed, Count: -1,
		}).Remove
	}, "plain", "scram-sha-256", "scram-sha-512")
}

// testLogin logs in with right and with wrong passwords. refuse makes Kafka refuse
// logins until undo is called.
func testLogin(t *testing.T, brokers []string, refuse func() (undo func()), mechanisms ...string) {
	for _, mechanism := range mechanisms {
		t.Run(mechanism, func(t *testing.T) {
			o := options(brokers, prefix())
			o.StartTimeout = waitLimit
			o.SASL, o.User, o.Password = mechanism, "imgo", "the-right-one"
			l := kept(t, open(t, o))
			if _, err := l.Append(testContext(t), 0, []byte("x")); err != nil {
				t.Fatalf("Append: %v", err)
			}
			if _, err := l.Read(testContext(t), 0, 0, 1); err != nil {
				t.Fatalf("Read: %v", err)
			}
			undo := refuse()
			defer undo()
			for _, wrong := range []struct{ user, password string }{{"imgo", "not-the-one"}, {"nobody", "Not-This-One"}} {
				o.User, o.Password = wrong.user, wrong.password
				_, err := bus.Open(testContext(t), o)
				checkRefusedAtOnce(t, err, "kafka.user and kafka.password")
				if err != nil && strings.Contains(err.Error(), wrong.password) {
					t.Errorf("the error has the password: %v", err)
				}
			}
		})
	}
	o := options(brokers, prefix())
	o.SASL, o.User, o.Password = "kerberos", "imgo", "right"
	_, err := bus.Open(testContext(t), o)
	checkRefusedAtOnce(t, err, `"kerberos"`)
}

// TestUnusablePassword expects that the password is in no error, since errors are logged, and that Open does not try again.
func TestUnusablePassword(t *testing.T) {
	for _, password := range []string{"with a newline\n", "with an \U0001FAE0"} {
		for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
			o := options([]string{"127.0.0.1:1"}, prefix())
			o.SASL, o.User, o.Password = mechanism, "imgo", password
			_, err := bus.Open(testContext(t), o)
			checkRefusedAtOnce(t, err, "kafka.user or kafka.password")
			if !bus.Permanent(err) || strings.Contains(err.Error(), "with a") {
				t.Errorf("the error has the password, or is not permanent (%v): %v", bus.Permanent(err), err)
			}
		}
	}
}

// TestWrongOptions expects errors that are permanent.
func TestWrongOptions(t *testing.T) {
	for name, change := range map[string]func(*bus.Options){
		"no brokers":  func(o *bus.Options) { o.Brokers = nil },
		"compression": func(o *bus.Options) { o.Compression = "rar" },
		"sasl":        func(o *bus.Options) { o.SASL = "kerberos" },
	} {
		o := options([]string{"127.0.0.1:1"}, prefix())
		change(&o)
		if _, err := bus.Open(testContext(t), o); !bus.Permanent(err) {
			t.Errorf("%s: %v, want a permanent error", name, err)
		}
	}
}

// TestLoginThatIsMissing expects an error that says what to check, after StartTimeout: a
// Kafka that is about to be ready closes connections in the same way.
func TestLoginThatIsMissing(t *testing.T) {
	k := kafkatest.New(t, kafkatest.Options{Users: []kafkatest.User{{Mechanism: "PLAIN", Name: "imgo", Password: "the-right-one"}}})
	o := options(k.Brokers(), prefix())
	o.StartTimeout = 300 * time.Millisecond
	if _, err := bus.Open(testContext(t), o); err == nil || !strings.Contains(err.Error(), "kafka.sasl") {
		t.Fatalf("Open without a login: %v, want an error that names kafka.sasl", err)
	}
}

// checkRefusedAtOnce checks that an error says what to correct, and that Open did not
// try again.
func checkRefusedAtOnce(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("Open: %v, want an error with %q", err, want)
	}
	if strings.Contains(err.Error(), "gave up") {
		t.Fatalf("Open tried again after a permanent error: %v", err)
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// sign makes a certificate for an address, or for a client.
func (a *authority) sign(t *testing.T, ip string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	k := kafkatest.New(t, kafkatest.Options{TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t, "127.0.0.1")}}})
	mutual := kafkatest.New(t, kafkatest.Options{TLS: &tls.Config{
		Certificates: []tls.Certificate{ours.sign(t, "127.0.0.1")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool(),
	}})
	elsewhere := kafkatest.New(t, kafkatest.Options{TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t, "127.0.0.9")}}})
	plain := fake(t)
	for _, test := range []struct {
		name string
		k    *kafkatest.Fake
		tls  *tls.Config
		want string // in the error; "": none
	}{
		{"known authority", k, &tls.Config{RootCAs: ours.pool()}, ""},
		{"unknown authority", k, &tls.Config{RootCAs: theirs.pool()}, "kafka.tls_ca"},
		{"another host's certificate", elsewhere, &tls.Config{RootCAs: ours.pool()}, "names the host in kafka.brokers"},
		{"mutual", mutual, &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.sign(t, "127.0.0.1")}}, ""},
		{"mutual without a certificate", mutual, &tls.Config{RootCAs: ours.pool()}, "kafka.tls_cert"},
		{"no TLS there", plain, &tls.Config{RootCAs: ours.pool()}, "kafka.tls"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options(test.k.Brokers(), prefix())
			o.StartTimeout = waitLimit
			if test.k == plain {
				o.StartTimeout = time.Second // Kafka may only close the connection
			}
			o.TLS = func() *tls.Config { return test.tls }
			if test.want == "" {
				b := open(t, o)
				l := kept(t, b)
				if _, err := l.Append(testContext(t), 0, []byte("x")); err != nil {
					t.Fatalf("Append: %v", err)
				}
				m := join(t, b, l)
				eventually(t, "all partitions", func() bool { return len(m.has()) == 3 })
				return
			}
			_, err := bus.Open(testContext(t), o)
			if test.k == plain {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("Open: %v, want an error with %q", err, test.want)
				}
				return
			}
			checkRefusedAtOnce(t, err, test.want)
		})
	}
	t.Run("TLS where it is not expected", func(t *testing.T) {
		o := options(k.Brokers(), prefix())
		o.StartTimeout = 300 * time.Millisecond
		if _, err := bus.Open(testContext(t), o); err == nil || !strings.Contains(err.Error(), "kafka.tls") {
			t.Fatalf("Open: %v, want an error that names kafka.tls", err)
		}
	})
}
