package auth

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

const (
	// minSecret is the shortest secret of HS256, in bytes: RFC 7518, section 3.2.
	minSecret = 32
	// maxLeeway bounds the leeway, which must not become a token's lifetime.
	maxLeeway = 5 * time.Minute
)

// JWTConfig is the settings for signed tokens. The algorithms are HS256 with
// Secret, and RS256 (2048 bits and more), ES256 and EdDSA (Ed25519) with a
// public key from a PEM file or a JWKS. A key is good for one algorithm only.
// Key files are read again when they change. A file that has become unreadable
// leaves the keys as they were.
type JWTConfig struct {
	// Secret is the shared secret of HS256, at least 32 bytes; empty: no HS256.
	Secret string
	// PublicKeyFiles are PEM files with public keys or certificates.
	PublicKeyFiles []string
	// JWKSFile and JWKSURL are key sets. With either, a token that names a key
	// (kid) must name one of the set. A URL must be https, or http on loopback.
	// It is fetched every RefreshInterval and when a token names a key that the
	// set does not have, but at most once in ten seconds.
	JWKSFile string
	JWKSURL  string
	// RefreshInterval is how often JWKSURL is fetched.
	RefreshInterval time.Duration

	// Issuer is the iss that a token must have; empty: any.
	Issuer string
	// Audience lists the aud of which a token must have one; empty: any.
	Audience []string
	// UserClaim is the claim that names the user: a string, or an integer.
	UserClaim string
	// DeviceClaim is the claim that binds a token to a device; empty: none. A
	// client that names another device is refused, and a client that names none
	// gets this one.
	DeviceClaim string
	// Leeway is how far the clocks of issuer and logic may differ.
	Leeway time.Duration
	// RequireExpiry refuses tokens without exp.
	RequireExpiry bool
}

// DefaultJWTConfig returns the defaults: no keys, and sub names the user.
func DefaultJWTConfig() JWTConfig {
	return JWTConfig{UserClaim: "sub", Leeway: 10 * time.Second, RefreshInterval: 5 * time.Minute}
}

// Enabled reports whether there is any key for JWTs.
func (c JWTConfig) Enabled() bool {
	return c.Secret != "" || len(c.PublicKeyFiles) > 0 || c.usesJWKS()
}

func (c JWTConfig) usesJWKS() bool { return c.JWKSFile != "" || c.JWKSURL != "" }

// Check returns an error for the first setting that cannot be used.
func (c JWTConfig) Check() error {
	switch {
	case c.Secret != "" && len(c.Secret) < minSecret:
		return fmt.Errorf("JWT.Secret has %d bytes: HS256 needs at least %d", len(c.Secret), minSecret)
	case c.UserClaim == "":
		return errors.New("JWT.UserClaim is empty: name the claim that is the user, such as \"sub\"")
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

// trustworthy reports whether nobody on the way to u can put in other keys.
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
