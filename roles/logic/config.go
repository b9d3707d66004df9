package logic

import (
	"fmt"
	"time"

	"imgo/roles/logic/auth"
)

// The values of Config.AuthMode.
const (
	// AuthToken asks every client for a token: an opaque one, or a JWT where
	// keys for it are configured.
	AuthToken = "token"
	// AuthNone believes what a client says its user is. For development.
	AuthNone = "none"
)

// maxBody is the largest Config.MaxBody: bodies are held in memory by every
// role that they pass through.
const maxBody = 1 << 20

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
	JWT auth.JWTConfig

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

// DefaultConfig are the defaults: opaque tokens, messages of 64 KiB that live
// for 7 days.
func DefaultConfig() Config {
	return Config{
		DefaultTTL:    7 * 24 * time.Hour,
		MaxTTL:        7 * 24 * time.Hour,
		MaxUsers:      100_000,
		MaxBody:       64 << 10,
		AuthMode:      AuthToken,
		JWT:           auth.DefaultJWTConfig(),
		CallTimeout:   5 * time.Second,
		LookupTimeout: time.Second,
		CometTimeout:  2 * time.Second,
	}
}

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
		return c.JWT.Check()
	}
	return nil
}
