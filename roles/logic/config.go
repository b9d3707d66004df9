package logic

import (
	"fmt"
	"net"
	"net/url"
	"time"
)

// The values of Config.AuthMode.
const (
	// AuthToken asks every client for a token: an opaque one, or a JWT where
	// keys for it are configured.
	AuthToken = "token"
	// AuthNone believes what a client says its user is. For development.
	AuthNone = "none"
)

const (
	// maxBody is the largest Config.MaxBody: bodies are held in memory by
	// every role that they pass through.
	maxBody = 1 << 20
	// minSecret is the shortest HS256 secret, as RFC 7518 asks.
	minSecret = 32
	// maxLeeway keeps the leeway for clocks from being a token's lifetime.
	maxLeeway = 5 * time.Minute
)

// Config are logic's settings. DefaultConfig has sane ones.
type Config struct {
	// DefaultTTL is how long a kept message lives whose push does not say.
	DefaultTTL time.Duration
	// MaxTTL is the longest that a push may ask for. The log's retention must
	// not be shorter.
	MaxTTL time.Duration
	// MaxUsers bounds the users (and the keys) that one push or question names.
	MaxUsers int
	// MaxBody bounds a pushed body, in bytes; at most 1 MiB.
	MaxBody int

	// AuthMode is AuthToken or AuthNone.
	AuthMode string
	// JWT says which JWTs are good; without a key in it none is.
	JWT JWTConfig

	// CallTimeout bounds every operation: all calls to routers and comets that
	// it makes, their repetitions, and the appends.
	CallTimeout time.Duration
	// LookupTimeout bounds the question who is there in a kept push without an
	// idempotency key. Past it the push goes on without the answer: the log
	// alone makes it durable, and a router that is starting must not make a
	// caller wait or fail.
	LookupTimeout time.Duration
	// CometTimeout bounds one comet's answer about its rooms, so that a hung
	// one costs its own part of the answer only.
	CometTimeout time.Duration
}

// JWTConfig says which JWTs are good: HS256 with Secret, RS256 (2048 bits and
// more), ES256 and EdDSA (Ed25519) with a public key from a PEM file or a
// JWKS. A key is good for its own algorithm only. Files are read again when
// they change; a file that has become unreadable leaves the keys as they were.
type JWTConfig struct {
	// Secret is the shared secret of HS256, at least 32 bytes; empty: no HS256.
	Secret string
	// PublicKeyFiles are PEM files with public keys or certificates.
	PublicKeyFiles []string
	// JWKSFile and JWKSURL are sets of keys. With either, a token that names a
	// key (kid) must name one of the set. A URL must be https, or http on
	// loopback; it is fetched every RefreshInterval, and, at most once in ten
	// seconds, when a token names a key that the set does not have.
	JWKSFile string
	JWKSURL  string
	// RefreshInterval is how often JWKSURL is fetched.
	RefreshInterval time.Duration

	// Issuer is the iss that a token must have; empty: any.
	Issuer string
	// Audience are the aud of which a token must have one; empty: any.
	Audience []string
	// UserClaim is the claim that is the user: a string, or an integer.
	UserClaim string
	// DeviceClaim binds a token to a device: a client that says another one is
	// refused, one that says none gets this one. Empty: no such claim.
	DeviceClaim string
	// Leeway is how far the clocks of issuer and logic may differ.
	Leeway time.Duration
	// RequireExpiry refuses tokens without exp.
	RequireExpiry bool
}

// DefaultConfig are the defaults: opaque tokens, messages of 64 KiB that live
// for 7 days.
func DefaultConfig() Config {
	return Config{
		DefaultTTL:    7 * 24 * time.Hour,
		MaxTTL:        7 * 24 * time.Hour,
		MaxUsers:      100_000,
		MaxBody:       64 << 10,
		AuthMode:      AuthToken,
		JWT:           JWTConfig{UserClaim: "sub", Leeway: 10 * time.Second, RefreshInterval: 5 * time.Minute},
		CallTimeout:   5 * time.Second,
		LookupTimeout: time.Second,
		CometTimeout:  2 * time.Second,
	}
}

// Enabled says whether there is any key for JWTs.
func (c JWTConfig) Enabled() bool {
	return c.Secret != "" || len(c.PublicKeyFiles) > 0 || c.usesJWKS()
}

func (c JWTConfig) usesJWKS() bool { return c.JWKSFile != "" || c.JWKSURL != "" }

func (c Config) check() error {
	positive := []struct {
		name  string
		value time.Duration
	}{
		{"DefaultTTL", c.DefaultTTL}, {"MaxTTL", c.MaxTTL}, {"CallTimeout", c.CallTimeout},
		{"LookupTimeout", c.LookupTimeout}, {"CometTimeout", c.CometTimeout},
	}
	for _, p := range positive {
		if p.value <= 0 {
			return fmt.Errorf("%s is %s: it must be positive", p.name, p.value)
		}
	}
	switch {
	case c.DefaultTTL > c.MaxTTL:
		return fmt.Errorf("DefaultTTL is %s: it must not be above MaxTTL, %s", c.DefaultTTL, c.MaxTTL)
	case c.MaxUsers <= 0:
		return fmt.Errorf("MaxUsers is %d: it must be positive", c.MaxUsers)
	case c.MaxBody <= 0 || c.MaxBody > maxBody:
		return fmt.Errorf("MaxBody is %d: it must be 1 to %d", c.MaxBody, maxBody)
	case c.AuthMode != AuthToken && c.AuthMode != AuthNone:
		return fmt.Errorf("AuthMode is %q: it must be %q or %q", c.AuthMode, AuthToken, AuthNone)
	}
	if c.JWT.Enabled() {
		return c.JWT.check()
	}
	return nil
}

func (c JWTConfig) check() error {
	switch {
	case c.Secret != "" && len(c.Secret) < minSecret:
		return fmt.Errorf("JWT.Secret has %d bytes: HS256 needs at least %d", len(c.Secret), minSecret)
	case c.UserClaim == "":
		return fmt.Errorf("JWT.UserClaim is empty: name the claim that is the user, such as \"sub\"")
	case c.Leeway < 0 || c.Leeway > maxLeeway:
		return fmt.Errorf("JWT.Leeway is %s: it must be 0 to %s", c.Leeway, maxLeeway)
	case c.JWKSURL == "":
		return nil
	case c.RefreshInterval < minRefresh:
		return fmt.Errorf("JWT.RefreshInterval is %s: it must be at least %s", c.RefreshInterval, minRefresh)
	}
	u, err := url.Parse(c.JWKSURL)
	if err != nil {
		return fmt.Errorf("JWT.JWKSURL: %w", err)
	}
	if !trustworthy(u) {
		return fmt.Errorf("JWT.JWKSURL is %s: it must be https, or http on loopback", u.Redacted())
	}
	return nil
}

// trustworthy says whether keys may be fetched from u: nobody on the way can
// put in keys of his own.
func trustworthy(u *url.URL) bool {
	switch {
	case u.Host == "":
		return false
	case u.Scheme == "https":
		return true
	case u.Scheme != "http":
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
