package logic

import (
	"time"

	"imgo/internal/settings"
	"imgo/internal/upstream"
	"imgo/roles/logic/auth"
)

// Config is logic's settings. Start from DefaultConfig.
type Config struct {
	Lifetimes
	RoomRules
	Reports
	Auth auth.Config
	// Upstream says what becomes of the messages of clients.
	Upstream upstream.Rules

	// MaxUsers bounds the users (and the keys) that one push or question names.
	MaxUsers int `default:"100000"`
	// MaxBody bounds a pushed body, in bytes.
	MaxBody int `default:"65536"`
	// Retention is how long the kept log keeps a record. 0 means for ever.
	Retention time.Duration
	// CallTimeout bounds every operation: its calls to routers and comets, their
	// repetitions, and the appends.
	CallTimeout time.Duration `default:"5s"`
	// LookupTimeout bounds the look-up of the sessions for a kept push without an
	// idempotency key. After it the push goes on without the answer: the log alone
	// makes it durable, and a router that is starting must not delay a caller.
	LookupTimeout time.Duration `default:"1s"`
	// CometTimeout bounds one comet's answer about its rooms, so that a comet that
	// hangs costs its own part of the answer only.
	CometTimeout time.Duration `default:"2s"`
}

// Lifetimes is logic's part of section [kept].
type Lifetimes struct {
	DefaultTTL time.Duration `toml:"ttl" default:"168h" unit:"duration" min:"1s" doc:"How long a kept message waits when its push does not say."`
	MaxTTL     time.Duration `toml:"max_ttl" default:"168h" unit:"duration" min:"1s" doc:"The longest ttl that a push may ask for."`
}

// Reports is logic's part of section [events].
type Reports struct {
	DefaultReport ReportLevel `toml:"report" default:"none" choices:"none,settled,each" doc:"What a kept push reports if it does not say (report): none, settled (one event when all devices have\nthe message, or will not get it) or each (also one a device)."`
}

// ReportLevel is the name of an events.Level.
type ReportLevel string

// DefaultConfig returns the defaults: opaque tokens, and messages of up to 64 KiB
// that live for 7 days.
func DefaultConfig() Config { return settings.Default[Config]() }
