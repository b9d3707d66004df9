package auth_test

import (
	"bytes"
	"crypto"
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
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"imgo/envelope"
	"imgo/internal/settings"
	"imgo/roles/logic/auth"
)

const secret = "0123456789abcdef0123456789abcdef"

// testKeys is one key of each kind, and a second RSA key.
type testKeys struct {
	rsa, rsaOther *rsa.PrivateKey
	ec            *ecdsa.PrivateKey
	ed            ed25519.PrivateKey
}

func makeKeys(t testing.TB) testKeys {
	t.Helper()
	var k testKeys
	var err error
	must := func() {
		if err != nil {
			t.Fatal(err)
		}
	}
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must()
	k.rsaOther, err = rsa.GenerateKey(rand.Reader, 2048)
	must()
	k.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must()
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	must()
	return k
}

func publicPEM(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func sign(t testing.TB, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestJWTAlgorithms(t *testing.T) {
	k := makeKeys(t)
	pems := [][]byte{publicPEM(t, &k.rsa.PublicKey), publicPEM(t, &k.ec.PublicKey), publicPEM(t, k.ed.Public())}
	h := newHarness(t, func(c *auth.Config) {
		c.Secret, c.PublicKeyFile = secret, write(t, "", bytes.Join(pems, nil))
	})
	claims := jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour)}
	for _, token := range []string{
		sign(t, jwt.SigningMethodHS256, []byte(secret), "", claims),
		sign(t, jwt.SigningMethodRS256, k.rsa, "any kid", claims), // no set, so a kid means nothing
		sign(t, jwt.SigningMethodES256, k.ec, "", claims),
		sign(t, jwt.SigningMethodEdDSA, k.ed, "", claims),
	} {
		id := wantUser(t, h, token, "ann")
		if want := h.clock.Now().Add(time.Hour + 10*time.Second).UnixMilli(); id.ExpiresMS/1000 != want/1000 {
			t.Errorf("expires %d, want %d", id.ExpiresMS, want)
		}
	}
	// Opaque tokens work beside JWTs, but must not look like one.
	h.tokens.users[auth.Hash("opaque")] = "bob"
	wantUser(t, h, "opaque", "bob")
	if !h.Verifies("eyJ.x.y") || h.Verifies("opaque") {
		t.Error("the two kinds of token are not told apart")
	}
}

func TestJWTAttacks(t *testing.T) {
	k := makeKeys(t)
	rsaPEM := publicPEM(t, &k.rsa.PublicKey)
	h := newHarness(t, func(c *auth.Config) {
		c.PublicKeyFile = write(t, "", rsaPEM)
		c.Issuer, c.Audience = "https://id.example.com", []string{"push", "chat"}
	})
	claims := func(change func(jwt.MapClaims)) jwt.MapClaims {
		c := jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour), "iss": "https://id.example.com", "aud": []string{"chat", "other"}}
		change(c)
		return c
	}
	good := claims(func(jwt.MapClaims) {})
	rs := func(c jwt.MapClaims) string { return sign(t, jwt.SigningMethodRS256, k.rsa, "", c) }
	goodToken := rs(good)
	parts := strings.Split(goodToken, ".")
	none := sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", good)
	raw := base64.RawURLEncoding.EncodeToString
	critical := jwt.NewWithClaims(jwt.SigningMethodRS256, good)
	critical.Header["crit"] = []string{"b64"}
	criticalToken, err := critical.SignedString(k.rsa)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, token string
		want        error
	}{
		{"alg none", none, envelope.ErrUnauthorized},
		{"alg None", raw([]byte(`{"alg":"None"}`)) + "." + parts[1] + ".", envelope.ErrUnauthorized},
		{"alg none with the signature", raw([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2], envelope.ErrUnauthorized},
		{"no alg", raw([]byte(`{"typ":"JWT"}`)) + "." + parts[1] + "." + parts[2], envelope.ErrUnauthorized},
		{"HS256 with the public key", sign(t, jwt.SigningMethodHS256, rsaPEM, "", good), envelope.ErrUnauthorized},
		{"HS256 with the key's bytes", sign(t, jwt.SigningMethodHS256, k.rsa.N.Bytes(), "", good), envelope.ErrUnauthorized},
		{"HS256 with nothing", sign(t, jwt.SigningMethodHS256, []byte{}, "", good), envelope.ErrUnauthorized},
		{"RS512 with the right key", sign(t, jwt.SigningMethodRS512, k.rsa, "", good), envelope.ErrUnauthorized},
		{"PS256 with the right key", sign(t, jwt.SigningMethodPS256, k.rsa, "", good), envelope.ErrUnauthorized},
		{"ES256", sign(t, jwt.SigningMethodES256, k.ec, "", good), envelope.ErrUnauthorized},
		{"wrong key", sign(t, jwt.SigningMethodRS256, small, "", good), envelope.ErrUnauthorized},
		{"other claims, same signature", parts[0] + "." + raw([]byte(`{"sub":"root"}`)) + "." + parts[2], envelope.ErrUnauthorized},
		{"no signature", parts[0] + "." + parts[1] + ".", envelope.ErrUnauthorized},
		{"crit", criticalToken, envelope.ErrUnauthorized},
		{"expired", rs(claims(func(c jwt.MapClaims) { c["exp"] = at(h, -time.Minute) })), envelope.ErrExpired},
		{"exp 0", rs(claims(func(c jwt.MapClaims) { c["exp"] = 0 })), envelope.ErrExpired},
		{"exp as text", rs(claims(func(c jwt.MapClaims) { c["exp"] = "tomorrow" })), envelope.ErrUnauthorized},
		{"exp null", rs(claims(func(c jwt.MapClaims) { c["exp"] = nil })), envelope.ErrUnauthorized},
		{"not yet valid", rs(claims(func(c jwt.MapClaims) { c["nbf"] = at(h, time.Minute) })), envelope.ErrUnauthorized},
		{"missing sub", rs(claims(func(c jwt.MapClaims) { delete(c, "sub") })), envelope.ErrUnauthorized},
		{"sub null", rs(claims(func(c jwt.MapClaims) { c["sub"] = nil })), envelope.ErrUnauthorized},
		{"sub empty", rs(claims(func(c jwt.MapClaims) { c["sub"] = "" })), envelope.ErrUnauthorized},
		{"sub long", rs(claims(func(c jwt.MapClaims) { c["sub"] = strings.Repeat("x", 129) })), envelope.ErrUnauthorized},
		{"sub with a control character", rs(claims(func(c jwt.MapClaims) { c["sub"] = "a\u0000b" })), envelope.ErrUnauthorized},
		{"sub an object", rs(claims(func(c jwt.MapClaims) { c["sub"] = map[string]any{"id": 1} })), envelope.ErrUnauthorized},
		{"sub 1.5", rs(claims(func(c jwt.MapClaims) { c["sub"] = 1.5 })), envelope.ErrUnauthorized},
		{"wrong issuer", rs(claims(func(c jwt.MapClaims) { c["iss"] = "https://id.example.org" })), envelope.ErrUnauthorized},
		{"no issuer", rs(claims(func(c jwt.MapClaims) { delete(c, "iss") })), envelope.ErrUnauthorized},
		{"wrong audience", rs(claims(func(c jwt.MapClaims) { c["aud"] = "mail" })), envelope.ErrUnauthorized},
		{"no audience", rs(claims(func(c jwt.MapClaims) { delete(c, "aud") })), envelope.ErrUnauthorized},
		{"100 KB", rs(claims(func(c jwt.MapClaims) { c["pad"] = strings.Repeat("x", 100<<10) })), envelope.ErrUnauthorized},
		{"two parts", parts[0] + "." + parts[1], envelope.ErrUnauthorized},
		{"four parts", goodToken + ".x", envelope.ErrUnauthorized},
		{"not base64", "eyJ!.!.!", envelope.ErrUnauthorized},
		{"deep claims", parts[0] + "." + raw([]byte(strings.Repeat(`[`, 5000))) + "." + parts[2], envelope.ErrUnauthorized},
		{"dots", "ey" + strings.Repeat(".", 5000), envelope.ErrUnauthorized},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { wantRefused(t, h, test.token, test.want) })
	}
	if h.tokens.lookups > 6 { // two tries of each that does not look like a JWT
		t.Errorf("%d JWTs were looked up as opaque tokens", h.tokens.lookups)
	}
	wantUser(t, h, goodToken, "ann")
}

func TestJWTClaims(t *testing.T) {
	h := newHarness(t, func(c *auth.Config) {
		c.Secret, c.UserClaim, c.DeviceClaim, c.RequireDevice = secret, "uid", "dev", false
	})
	token := func(c jwt.MapClaims) string { return sign(t, jwt.SigningMethodHS256, []byte(secret), "", c) }
	wantUser(t, h, token(jwt.MapClaims{"uid": "ann"}), "ann")
	wantUser(t, h, token(jwt.MapClaims{"uid": -12}), "-12")
	wantUser(t, h, token(jwt.MapClaims{"uid": json.Number("9007199254740993")}), "9007199254740993")

	bound := token(jwt.MapClaims{"uid": "ann", "dev": "phone"})
	if id := wantUser(t, h, bound, "ann"); id.Device != "phone" {
		t.Errorf("device %q", id.Device)
	}
	// Within the leeway a token is good, and its session does not end at once.
	id := wantUser(t, h, token(jwt.MapClaims{"uid": "ann", "exp": at(h, -5*time.Second)}), "ann")
	if id.ExpiresMS <= h.clock.Now().UnixMilli() {
		t.Errorf("ended %d ms ago", h.clock.Now().UnixMilli()-id.ExpiresMS)
	}
	wantUser(t, h, token(jwt.MapClaims{"uid": "ann", "nbf": at(h, 5*time.Second)}), "ann")
}

func TestJWTRequireExpiry(t *testing.T) {
	if !settings.Default[auth.Config]().RequireExpiry {
		t.Error("tokens without an end are good by default")
	}
	token := sign(t, jwt.SigningMethodHS256, []byte(secret), "", jwt.MapClaims{"sub": "ann"})
	wantRefused(t, newHarness(t, func(c *auth.Config) { c.Secret, c.RequireExpiry = secret, true }), token, envelope.ErrUnauthorized)
	wantUser(t, newHarness(t, func(c *auth.Config) { c.Secret, c.RequireExpiry = secret, false }), token, "ann")
}

// TestJWTDeviceClaim checks that a token without the device claim is not good for every device.
func TestJWTDeviceClaim(t *testing.T) {
	without := sign(t, jwt.SigningMethodHS256, []byte(secret), "", jwt.MapClaims{"sub": "ann"})
	with := sign(t, jwt.SigningMethodHS256, []byte(secret), "", jwt.MapClaims{"sub": "ann", "dev": "phone"})
	h := newHarness(t, func(c *auth.Config) { c.Secret, c.DeviceClaim = secret, "dev" })
	wantRefused(t, h, without, envelope.ErrUnauthorized)
	if id := wantUser(t, h, with, "ann"); id.Device != "phone" {
		t.Errorf("device %q", id.Device)
	}
	h = newHarness(t, func(c *auth.Config) { c.Secret, c.DeviceClaim, c.RequireDevice = secret, "dev", false })
	if id := wantUser(t, h, without, "ann"); id.Device != "" {
		t.Errorf("device %q", id.Device)
	}
	wantUser(t, newHarness(t, func(c *auth.Config) { c.Secret = secret }), without, "ann")
}

// A refusal is remembered only while the reason for it lasts.
func TestJWTNotYetValidBecomesValid(t *testing.T) {
	h := newHarness(t, func(c *auth.Config) { c.Secret = secret })
	token := sign(t, jwt.SigningMethodHS256, []byte(secret), "", jwt.MapClaims{"sub": "ann", "nbf": at(h, time.Minute)})
	wantRefused(t, h, token, envelope.ErrUnauthorized)
	h.clock.Add(time.Minute)
	wantUser(t, h, token, "ann")
}

// FuzzAuthToken checks that only signed tokens are accepted, that no token
// crashes the authenticator, and that no error repeats a token.
func FuzzAuthToken(f *testing.F) {
	k := makeKeys(f)
	h := newHarness(f, func(c *auth.Config) {
		c.PublicKeyFile = write(f, "", append(publicPEM(f, &k.rsa.PublicKey), publicPEM(f, &k.ec.PublicKey)...))
		c.Secret, c.DeviceClaim = secret, "dev"
	})
	signed := make(map[string]bool)
	for _, token := range []string{
		sign(f, jwt.SigningMethodHS256, []byte(secret), "", jwt.MapClaims{"sub": "ann", "exp": at(h, time.Hour)}),
		sign(f, jwt.SigningMethodES256, k.ec, "kid", jwt.MapClaims{"sub": 7, "dev": "d", "nbf": at(h, -time.Hour)}),
	} {
		signed[token] = true
		f.Add(token)
		f.Add(token + "x")
		f.Add(strings.Replace(token, ".", "..", 1))
	}
	f.Add("")
	f.Add("imgo_token")
	f.Add(sign(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", jwt.MapClaims{"sub": "ann"}))
	f.Add("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjFlNDAwfQ.x")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := h.Authenticate(t.Context(), token, "")
		user := id.User
		switch {
		case err == nil && !signed[token]:
			t.Errorf("%q is %s's", token, user)
		case err != nil && user != "":
			t.Errorf("user %q and %v", user, err)
		case err != nil && len(token) > 40 && strings.Contains(err.Error(), token):
			t.Errorf("the error repeats the token: %v", err)
		case err != nil && !errors.Is(err, envelope.ErrUnauthorized) && !errors.Is(err, envelope.ErrExpired):
			t.Errorf("got %v", err)
		}
	})
}
