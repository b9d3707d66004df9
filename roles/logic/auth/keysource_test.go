package auth_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/settings"
	"imgo/roles/logic/auth"
)

func jwk(kid string, key *rsa.PublicKey) map[string]any {
	raw := base64.RawURLEncoding.EncodeToString
	return map[string]any{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": raw(key.N.Bytes()), "e": raw(big.NewInt(int64(key.E)).Bytes()),
	}
}

func jwks(t testing.TB, keys ...map[string]any) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestJWKSFile(t *testing.T) {
	k := makeKeys(t)
	raw := base64.RawURLEncoding.EncodeToString
	point, err := k.ec.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	other := jwk("enc", &k.rsaOther.PublicKey)
	other["use"] = "enc"
	wrongAlg := jwk("rs512", &k.rsaOther.PublicKey)
	wrongAlg["alg"] = "RS512"
	set := jwks(t, jwk("one", &k.rsa.PublicKey), other, wrongAlg,
		map[string]any{"kty": "EC", "crv": "P-256", "kid": "ec", "x": raw(point[1:33]), "y": raw(point[33:])},
		map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": raw(k.ed.Public().(ed25519.PublicKey))},
		map[string]any{"kty": "oct", "kid": "shared", "k": raw([]byte(secret)), "alg": "HS256"},
		map[string]any{"kty": "new", "kid": "unheard of"},
		map[string]any{"kty": 5, "kid": "of another JSON type"},
	)
	h := newHarness(t, func(c *auth.Config) { c.JWKSFile = write(t, "", set) })
	claims := jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour)}
	for name, token := range map[string]string{
		"wrong kid":            sign(t, jwt.SigningMethodRS256, k.rsa, "two", claims),
		"no kid":               sign(t, jwt.SigningMethodRS256, k.rsa, "", claims),
		"path as kid":          sign(t, jwt.SigningMethodRS256, k.rsa, "../../etc/passwd", claims),
		"kid of another key":   sign(t, jwt.SigningMethodRS256, k.rsa, "ec", claims),
		"wrong key":            sign(t, jwt.SigningMethodRS256, k.rsaOther, "one", claims),
		"key for encryption":   sign(t, jwt.SigningMethodRS256, k.rsaOther, "enc", claims),
		"key for another alg":  sign(t, jwt.SigningMethodRS512, k.rsaOther, "rs512", claims),
		"HS256 with the N":     sign(t, jwt.SigningMethodHS256, k.rsa.N.Bytes(), "one", claims),
		"ES256 with other key": sign(t, jwt.SigningMethodHS256, []byte(secret), "ec", claims),
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, h, token, envelope.ErrUnauthorized) })
	}
	number := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	number.Header["kid"] = 1
	text, err := number.SignedString(k.rsa)
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, h, text, envelope.ErrUnauthorized)
	wantUser(t, h, sign(t, jwt.SigningMethodRS256, k.rsa, "one", claims), "ann")
	wantUser(t, h, sign(t, jwt.SigningMethodES256, k.ec, "ec", claims), "ann")
	wantUser(t, h, sign(t, jwt.SigningMethodEdDSA, k.ed, "ed", claims), "ann")
	wantUser(t, h, sign(t, jwt.SigningMethodHS256, []byte(secret), "shared", claims), "ann")
}

// When a JWKS file is rewritten the new key is good at once and the old one no
// longer. A set that cannot be read changes nothing.
func TestJWKSFileRotation(t *testing.T) {
	k := makeKeys(t)
	path := write(t, "", jwks(t, jwk("one", &k.rsa.PublicKey)))
	h := newHarness(t, func(c *auth.Config) { c.JWKSFile = path })
	claims := jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour)}
	one := sign(t, jwt.SigningMethodRS256, k.rsa, "one", claims)
	two := sign(t, jwt.SigningMethodRS256, k.rsaOther, "two", claims)
	wantRefused(t, h, two, envelope.ErrUnauthorized)
	wantUser(t, h, one, "ann")

	good := func(token string) func() bool {
		return func() bool { _, err := h.Authenticate(t.Context(), token, ""); return err == nil }
	}
	write(t, path, []byte(`{"keys":[`)) // caught in the middle of being written
	eventually(t, "the half-written file was looked at", func() bool {
		_, _ = h.Authenticate(t.Context(), two, "") // refused, and makes it look
		return h.reloads("failed") > 0
	})
	wantUser(t, h, one, "ann")
	// Without Run, an unknown kid makes it read the file.
	write(t, path, jwks(t, jwk("two", &k.rsaOther.PublicKey)))
	eventually(t, "the new key is good", good(two))
	if good(one)() {
		t.Error("the old key is still good")
	}

	// With Run, it reads the file also when no token names an unknown key.
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { h.Run(ctx); close(ran) }()
	defer func() { cancel(); <-ran }()
	write(t, path, jwks(t, jwk("one", &k.rsa.PublicKey)))
	eventually(t, "the key that was removed is refused", func() bool { return !good(two)() })
}

func TestJWKSURL(t *testing.T) {
	k := makeKeys(t)
	var set atomic.Pointer[[]byte]
	publish := func(data []byte) { set.Store(&data) }
	var fetches atomic.Int32
	var down atomic.Bool
	down.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		if down.Load() {
			http.Error(rw, "down", http.StatusServiceUnavailable)
			return
		}
		_, _ = rw.Write(*set.Load()) // a client that left is its own affair
	}))
	defer server.Close()
	raw := base64.RawURLEncoding.EncodeToString
	publish(jwks(t, jwk("one", &k.rsa.PublicKey),
		map[string]any{"kty": "oct", "kid": "shared", "k": raw([]byte(secret))})) // which a fetched set must not have
	h := newHarness(t, func(c *auth.Config) { c.JWKSURL = server.URL })
	claims := jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour)}
	one := sign(t, jwt.SigningMethodRS256, k.rsa, "one", claims)

	// While the server is down, no token is called bad.
	wantRefused(t, h, one, envelope.ErrAuthUnavailable)
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d fetches for two tokens", n)
	}
	// The server is up, and an authenticator starts now.
	down.Store(false)
	h = newHarness(t, func(c *auth.Config) { c.JWKSURL = server.URL })
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { h.Run(ctx); close(ran) }()
	defer func() { cancel(); <-ran }()
	eventually(t, "ready", func() bool { return h.Ready() == nil })
	// A flood of unknown key names does not become a flood of fetches.
	for range 50 {
		token := sign(t, jwt.SigningMethodHS256, []byte(secret), "shared", claims)
		if _, err := h.Authenticate(t.Context(), token, ""); !errors.Is(err, envelope.ErrUnauthorized) {
			t.Fatalf("got %v", err)
		}
	}
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
	wantUser(t, h, one, "ann")
}

func TestJWKSURLFollowsNoRedirect(t *testing.T) {
	var keysAsked atomic.Bool
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.Handle("/away", http.RedirectHandler("http://192.0.2.1/keys", http.StatusFound))
	mux.Handle("/here", http.RedirectHandler("/keys", http.StatusFound))
	mux.HandleFunc("/keys", func(http.ResponseWriter, *http.Request) { keysAsked.Store(true) })
	for _, path := range []string{"/away", "/here"} {
		h := newHarness(t, func(c *auth.Config) { c.JWKSURL = server.URL + path + "?key=hush" })
		wantRefused(t, h, sign(t, jwt.SigningMethodHS256, []byte(secret), "k", jwt.MapClaims{"sub": "ann"}), envelope.ErrAuthUnavailable)
		if err := h.Ready(); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("readiness says %v", err)
		}
	}
	if keysAsked.Load() {
		t.Error("a redirect was followed")
	}
}

func TestKeyFilesThatAreRefused(t *testing.T) {
	k := makeKeys(t)
	weak := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k.ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		data []byte
		set  bool
		want string
	}{
		"empty":        {nil, false, "no PEM block"},
		"text":         {[]byte("hello"), false, "no PEM block"},
		"private key":  {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), false, "public key only"},
		"broken":       {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), false, "PUBLIC KEY"},
		"another kind": {pem.EncodeToMemory(&pem.Block{Type: "DH PARAMETERS"}), false, "DH PARAMETERS"},
		"weak RSA":     {publicPEM(t, weak), false, "1024 bits"},
		"P-384":        {publicPEM(t, &p384.PublicKey), false, "P-384"},
		"large":        {make([]byte, 1<<20+1), false, "more than"},
		"set: text":    {[]byte("hello"), true, "decode the JWKS"},
		"set: no key":  {[]byte(`{"keys":[]}`), true, "no usable key"},
		"set: weak":    {jwks(t, jwk("k", weak)), true, "1024 bits"},
		"set: many":    {[]byte(`{"keys":[` + strings.Repeat(`{},`, 300) + `{}]}`), true, "301 keys"},
	} {
		cfg := settings.Default[auth.Config]()
		path := write(t, "", test.data)
		if test.set {
			cfg.JWKSFile = path
		} else {
			cfg.PublicKeyFile = path
		}
		_, err := auth.NewJWT(cfg, auth.NewOpaque(nil, time.Now), zerolog.Nop(), nil)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSecretBesideKeySet checks that a token with a key's name is checked with the secret, which has no
// name, also if there is a key set.
func TestSecretBesideKeySet(t *testing.T) {
	k := makeKeys(t)
	path := write(t, "", jwks(t, jwk("one", &k.rsa.PublicKey)))
	h := newHarness(t, func(c *auth.Config) {
		c.Secret, c.JWKSFile, c.PublicKeyFile = secret, path, write(t, "", publicPEM(t, &k.ec.PublicKey))
	})
	claims := jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour)}
	wantUser(t, h, sign(t, jwt.SigningMethodHS256, []byte(secret), "my-backend", claims), "ann")
	wantUser(t, h, sign(t, jwt.SigningMethodHS256, []byte(secret), "", claims), "ann")
	wantUser(t, h, sign(t, jwt.SigningMethodES256, k.ec, "my-backend", claims), "ann")
	wantUser(t, h, sign(t, jwt.SigningMethodRS256, k.rsa, "one", claims), "ann")
	wantRefused(t, h, sign(t, jwt.SigningMethodRS256, k.rsa, "", claims), envelope.ErrUnauthorized)
	wantRefused(t, h, sign(t, jwt.SigningMethodHS256, []byte("another secret of thirty-two bytes"), "my-backend", claims),
		envelope.ErrUnauthorized)
	// A key that comes later, of the same algorithm as the one without a name, is found.
	write(t, path, jwks(t, jwk("one", &k.rsa.PublicKey), map[string]any{"kty": "oct", "kid": "new", "alg": "HS256",
		"k": base64.RawURLEncoding.EncodeToString([]byte(secret + secret))}))
	rotated := sign(t, jwt.SigningMethodHS256, []byte(secret+secret), "new", claims)
	eventually(t, "the new key is good", func() bool { _, err := h.Authenticate(t.Context(), rotated, ""); return err == nil })
}

// TestUnusableOriginHoldsUpNoOther checks that keys which cannot be used together with the others count as a
// failure of their origin alone: the other origin's keys still change.
func TestUnusableOriginHoldsUpNoOther(t *testing.T) {
	k := makeKeys(t)
	pem := publicPEM(t, &k.ec.PublicKey)
	set := write(t, "", jwks(t, jwk("one", &k.rsa.PublicKey)))
	file := write(t, "", pem)
	h := newHarness(t, func(c *auth.Config) { c.JWKSFile, c.PublicKeyFile = set, file })
	claims := jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour)}
	one, two := sign(t, jwt.SigningMethodRS256, k.rsa, "one", claims), sign(t, jwt.SigningMethodRS256, k.rsaOther, "two", claims)
	write(t, file, bytes.Repeat(pem, 17)) // more keys of one name than are allowed
	write(t, set, jwks(t, jwk("two", &k.rsaOther.PublicKey)))
	eventually(t, "the new key is good", func() bool { _, err := h.Authenticate(t.Context(), two, ""); return err == nil })
	wantUser(t, h, sign(t, jwt.SigningMethodES256, k.ec, "", claims), "ann")
	if failed, changed := h.reloads("failed"), h.reloads("changed"); failed == 0 || changed != 1 {
		t.Errorf("%v reloads failed, %v changed; want some and 1", failed, changed)
	}
	// A token that no key fits is not called bad while an origin is unusable.
	wantRefused(t, h, one, envelope.ErrAuthUnavailable)
}

// TestBadEntriesOfASet checks that each entry of a set stands alone.
func TestBadEntriesOfASet(t *testing.T) {
	k := makeKeys(t)
	good, err := json.Marshal(jwk("one", &k.rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		`{"kty":"RSA","kid":5}`, `{"kty":"RSA","kid":"a","n":[1],"e":"AQAB"}`, `5`, `null`, `"x"`, `[]`, `{}`, `{"kty":"RSA","key_ops":"verify"}`,
		`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`, `{"kty":"RSA","x5c":"none"}`, `{"kty":"RSA","n":"%%%","e":"AQAB"}`,
	} {
		h := newHarness(t, func(c *auth.Config) { c.JWKSFile = write(t, "", []byte(`{"keys":[`+bad+`,`+string(good)+`]}`)) })
		wantUser(t, h, sign(t, jwt.SigningMethodRS256, k.rsa, "one", jwt.MapClaims{"sub": "ann"}), "ann")
	}
}

// TestInventedKeyNames checks that tokens with names of keys that nobody has do not wait in great numbers
// for a slow identity provider. The tokens are not refused for the provider's silence.
func TestInventedKeyNames(t *testing.T) {
	const clients = 100
	k := makeKeys(t)
	var slow, over atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() {
			<-r.Context().Done()
			over.Store(true)
			return
		}
		_, _ = w.Write(jwks(t, jwk("one", &k.rsa.PublicKey)))
	}))
	defer server.Close()
	h := newHarness(t, func(c *auth.Config) { c.JWKSURL = server.URL })
	claims := jwt.MapClaims{"sub": "ann"}
	one := sign(t, jwt.SigningMethodRS256, k.rsa, "one", claims)
	wantUser(t, h, one, "ann")
	slow.Store(true)
	h.ForgetFetchTime()
	errs := make(chan error, clients)
	for range clients {
		go func() {
			_, err := h.Authenticate(t.Context(), sign(t, jwt.SigningMethodRS256, k.rsaOther, rand.Text(), claims), "")
			errs <- err
		}()
	}
	for i := range clients {
		err := <-errs
		if !errors.Is(err, envelope.ErrAuthUnavailable) {
			t.Errorf("client %d got %v", i, err)
		}
		// One client fetches, and sixteen wait.
		if i < clients-17 && over.Load() {
			t.Fatalf("only %d of %d clients were answered before the fetch was over", i, clients)
		}
	}
	wantUser(t, h, one, "ann")
}
