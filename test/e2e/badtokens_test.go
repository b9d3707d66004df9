package e2e_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgo/config"
	"imgo/protocol"
)

// claims are the claims of a JWT, or the fields of its header.
type claims map[string]any

func part(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// forge builds a JWT by hand, because a library would refuse to build most of these.
func forge(t *testing.T, header, body claims, sign func(string) []byte) string {
	t.Helper()
	text := part(t, header) + "." + part(t, body)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
}

func hs256(secret []byte) func(string) []byte {
	return func(text string) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
}

func rs256(t *testing.T, key *rsa.PrivateKey) func(string) []byte {
	return func(text string) []byte {
		sum := sha256.Sum256([]byte(text))
		b, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jwks returns a JSON Web Key Set with one key.
func jwks(t *testing.T, kid string, key *rsa.PublicKey) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "jwks.json")
	b64 := base64.RawURLEncoding.EncodeToString
	set := fmt.Sprintf(`{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":%q,"n":%q,"e":%q}]}`,
		kid, b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes()))
	if err := os.WriteFile(file, []byte(set), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestBadTokens connects with expired, revoked and forged tokens on every transport.
func TestBadTokens(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	key, other := rsaKey(t), rsaKey(t)
	n := start(t, func(cfg *config.Config) {
		cfg.Auth.Mode = "token"
		cfg.Auth.Secret, cfg.Auth.JWKSFile = secret, jwks(t, "k1", &key.PublicKey)
	})
	n.call(t, "POST", "/v1/tokens", `{"user":"witness","token":"witness"}`).want(t, 201)
	w := n.witness(t)

	now := time.Now().Unix()
	good := claims{"sub": "mallory", "exp": now + 3600}
	with := func(more claims) claims {
		c := claims{"sub": "mallory", "exp": now + 3600}
		for name, v := range more {
			if c[name] = v; v == nil {
				delete(c, name)
			}
		}
		return c
	}
	k1 := claims{"alg": "RS256", "typ": "JWT", "kid": "k1"}
	hs := claims{"alg": "HS256", "typ": "JWT"}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	none := func(string) []byte { return nil }
	tampered := func(token string) string {
		parts := strings.Split(token, ".")
		parts[1] = part(t, claims{"sub": "admin", "exp": now + 3600})
		return strings.Join(parts, ".")
	}

	// Opaque tokens.
	for _, request := range []string{
		`{"user":"trudy","token":"short-lived","ttl":"20ms"}`, `{"user":"eve","token":"revoked"}`,
		`{"user":"mallory","token":"replaced"}`, `{"user":"mallory","token":"in-place","single":true}`,
	} {
		n.call(t, "POST", "/v1/tokens", request).want(t, 201)
	}
	n.call(t, "POST", "/v1/tokens/revoke", `{"token":"revoked"}`).is(t, 200, `{"revoked":1}`)
	n.call(t, "POST", "/v1/tokens/revoke", `{"token":"replaced"}`).is(t, 200, `{"revoked":1}`) // also after the "single" token has revoked it

	for _, token := range []string{
		forge(t, hs, good, hs256([]byte(secret))), forge(t, k1, good, rs256(t, key)), "in-place",
	} {
		c := n.tcp(t)
		c.login("v2", token, "")
		if s := n.user(t, "mallory"); len(s.Sessions) == 0 {
			t.Errorf("a valid token gave no session of its user: %+v", s)
		}
		_ = c.Close()
	}
	time.Sleep(30 * time.Millisecond) // until the token short-lived has expired

	for i, test := range []struct {
		name    string
		token   string
		code    int
		outcome string
		says    string
	}{
		{"no token", "", 3501, "unauthorized", "no token"},
		{"unknown", "imgo_unknown", 3501, "unauthorized", "unknown"},
		{"too long", strings.Repeat("x", 20_000), 3501, "unauthorized", "longer than"},
		{"opaque, expired", "short-lived", 3502, "token_expired", "expired"},
		{"opaque, replaced", "replaced", 3503, "token_revoked", "revoked"},
		{"opaque, revoked", "revoked", 3503, "token_revoked", "revoked"},
		{"expired", forge(t, hs, with(claims{"exp": now - 3600}), hs256([]byte(secret))), 3502, "token_expired", "expired"},
		{"RSA, expired", forge(t, k1, with(claims{"exp": now - 3600}), rs256(t, key)), 3502, "token_expired", "expired"},
		{"not yet valid", forge(t, hs, with(claims{"nbf": now + 3600}), hs256([]byte(secret))), 3501, "unauthorized", "not valid yet"},
		{"alg none", forge(t, claims{"alg": "none", "typ": "JWT"}, good, none), 3501, "unauthorized", "alg"},
		{"alg None with a signature", forge(t, claims{"alg": "None"}, good, hs256([]byte(secret))), 3501, "unauthorized", "alg"},
		{"no alg", forge(t, claims{"typ": "JWT"}, good, hs256([]byte(secret))), 3501, "unauthorized", ""},
		{"no signature", strings.TrimRight(forge(t, hs, good, none), "."), 3501, "unauthorized", ""},
		{"empty signature", forge(t, hs, good, none), 3501, "unauthorized", "signature"},
		{"wrong secret", forge(t, hs, good, hs256([]byte(strings.Repeat("x", 32)))), 3501, "unauthorized", "signature"},
		{"wrong key", forge(t, k1, good, rs256(t, other)), 3501, "unauthorized", "signature"},
		{"wrong kid", forge(t, claims{"alg": "RS256", "kid": "k2"}, good, rs256(t, other)), 3501, "unauthorized", "key"},
		{"right key, wrong kid", forge(t, claims{"alg": "RS256", "kid": "k2"}, good, rs256(t, key)), 3501, "unauthorized", "key"},
		{"public key as the secret", forge(t, claims{"alg": "HS256", "kid": "k1"}, good, hs256(public)), 3501, "unauthorized", ""},
		{"public modulus as the secret", forge(t, hs, good, hs256(key.N.Bytes())), 3501, "unauthorized", "signature"},
		{"tampered", tampered(forge(t, k1, good, rs256(t, key))), 3501, "unauthorized", "signature"},
		{"no user", forge(t, hs, with(claims{"sub": nil}), hs256([]byte(secret))), 3501, "unauthorized", "sub"},
		{"user is a list", forge(t, hs, with(claims{"sub": []string{"a"}}), hs256([]byte(secret))), 3501, "unauthorized", "sub"},
		{"user with a control character", forge(t, hs, with(claims{"sub": "a\x00"}), hs256([]byte(secret))), 3501, "unauthorized", "sub"},
		{"user too long", forge(t, hs, with(claims{"sub": strings.Repeat("u", 129)}), hs256([]byte(secret))), 3501, "unauthorized", "sub"},
		{"claims are no JSON", part(t, hs) + ".bm8." + "AAAA", 3501, "unauthorized", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			moved := n.grows(t, closed(test.code), refused("logic"),
				counter{"imgo_logic_connects_total", []string{fmt.Sprintf("outcome=%q", test.outcome)}})
			c := n.dialAs(t, []string{"tcp", "text", "ws"}[i%3])
			c.send(2, protocol.OpAuth, 1, fmt.Sprintf(`{"token":%q}`, test.token))
			p := c.receive()
			body := string(p.Body)
			if p.Op != protocol.OpDisconnect || !strings.HasPrefix(body, fmt.Sprintf(`{"code":%d,`, test.code)) ||
				!strings.Contains(body, test.says) {
				t.Fatalf("got op %d %s, want %d and %q", p.Op, body, test.code, test.says)
			}
			for piece := range strings.SplitSeq(test.token, ".") {
				if len(piece) > 9 && strings.Contains(body, piece) {
					t.Errorf("the answer has a part of the token in it: %s", body)
				}
			}
			c.wantEnd(test.code)
			moved()
			n.call(t, "GET", "/1/msg/get?uid=1&mid=0&token="+test.token, "").want(t, 200, `"ret":6553`)
			w.fine(t)
		})
	}
	eventually(t, "mallory is away", func() bool { return !n.user(t, "mallory").Online })
	if s := n.user(t, "admin"); s.Online || len(s.Devices) > 0 {
		t.Errorf("admin is known: %+v", s)
	}
}

// TestRevokedWhileConnected checks that revoking a token ends its connections.
func TestRevokedWhileConnected(t *testing.T) {
	n := start(t, func(cfg *config.Config) { cfg.Auth.Mode = "token" })
	for _, user := range []string{"witness", "eve"} {
		n.call(t, "POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":%q}`, user, user)).want(t, 201)
	}
	w := n.witness(t)
	moved := n.grows(t, closed(3503))
	c := n.ws(t, true)
	c.login("v2", "eve", "")
	n.call(t, "POST", "/v1/tokens/revoke", `{"user":"eve"}`).is(t, 200, `{"revoked":1}`)
	c.closedWith(3503, "the token was revoked")
	moved()
	w.fine(t)
}
