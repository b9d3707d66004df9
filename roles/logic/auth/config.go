package auth

import (
	"cmp"
	"fmt"
	"net/url"
	"time"

	"imgo/internal/loopback"
	"imgo/internal/settings"
	"imgo/internal/webhook"
)

// The values of Config.Mode.
const (
	// ModeToken asks every client for a token: an opaque one, or a JWT where keys
	// for it are configured.
	ModeToken = "token"
	// ModeNone believes the user id that a client gives. It is for development.
	ModeNone = "none"
	// ModeWebhook asks the operator's backend about every client.
	ModeWebhook = "webhook"
)

// minSecret is the shortest secret of HS256, in bytes, which makes it as strong as
// its hash: RFC 7518, section 3.2.
const minSecret = 32

// Config is the settings of section [auth], but for comet's. The algorithms of JWTs
// are HS256 with Secret, and RS256 (2048 bits and more), ES256 and EdDSA (Ed25519)
// with a public key. A key is good for one algorithm only. Key files are read again
// when they change. A file that has become unreadable leaves the keys as they were.
//
// With a key set, a token that names a key (kid) is checked with that key of the set. If
// the set has none of that name, the keys without a name count: Secret and
// PublicKeyFile. JWKSURL is fetched every five minutes and when a token names a key that the set does
// not have, but at most once in ten seconds.
//
// With a device claim, a client that names another device is refused. A client that
// names no device gets the one of the claim.
type Config struct {
	Mode          string        `toml:"mode" default:"token" choices:"token,none,webhook" doc:"token: opaque tokens of this server, and JWTs once one of the keys below is given.\nwebhook: webhook_url decides about each client. Every comet needs this setting, too.\nnone: the token, or goim's mid, is believed to be the user id. For development: refused\nunless every address is loopback."`
	Secret        string        `toml:"jwt_secret" secret:"true" unit:"at least 32 bytes" doc:"The shared secret of HS256 JWTs."`
	PublicKeyFile string        `toml:"jwt_public_key" unit:"PEM file" doc:"The public key of RS256, ES256 or EdDSA JWTs."`
	JWKSFile      string        `toml:"jwks_file" unit:"JSON file" doc:"A JWKS; re-read when it changes."`
	JWKSURL       string        `toml:"jwks_url" unit:"https:// address" doc:"A JWKS that an identity provider serves."`
	Issuer        string        `toml:"issuer" doc:"The iss that a JWT must have. Empty: any."`
	Audience      []string      `toml:"audience" doc:"The aud of which a JWT must have one. Empty: any."`
	UserClaim     string        `toml:"user_claim" default:"sub" doc:"The claim of a JWT that is the user id."`
	DeviceClaim   string        `toml:"device_claim" doc:"The claim of a JWT that binds it to a device. Empty: none."`
	RequireDevice bool          `toml:"require_device" default:"true" doc:"Whether a JWT without the device claim is refused. false: it is good for any device. Without device_claim\nthis has no effect."`
	RequireExpiry bool          `toml:"require_exp" default:"true" doc:"Whether a JWT without exp is refused. false: it is good for ever, since JWTs cannot be revoked."`
	RoomsClaim    string        `toml:"rooms_claim" default:"rooms" doc:"The claim of a JWT that lists the rooms, and patterns such as \"team-*\", that it allows to join\nwhere a rule of [[rooms]] asks for a token. A JWT without it allows none."`
	Leeway        time.Duration `toml:"leeway" default:"10s" unit:"duration" min:"0s" max:"5m" doc:"How far the clocks of a JWT's issuer and of imgo may differ."`

	WebhookURL      string        `toml:"webhook_url" unit:"https:// address" doc:"Whom auth.mode = \"webhook\" asks."`
	RoomsWebhookURL string        `toml:"rooms_webhook_url" unit:"https:// address" doc:"Whom rules of [[rooms]] with join = \"webhook\" ask. Empty: webhook_url. Its calls are signed and bounded as\nthose of webhook_url, and counted apart."`
	WebhookSecrets  []string      `toml:"webhook_secrets" secret:"true" unit:"whsec_… as of: echo whsec_$(openssl rand -base64 32)" doc:"The secrets that sign the calls by Standard Webhooks. Two while one is replaced."`
	WebhookTimeout  time.Duration `toml:"webhook_timeout" default:"3s" unit:"duration" min:"100ms" max:"5s" doc:"The longest time that one call may take."`
	WebhookInFlight int           `toml:"webhook_in_flight" default:"64" unit:"calls" min:"1" max:"10000" doc:"The most calls under way. Further clients wait for at most webhook_timeout."`
}

// UsesJWT reports whether there is any key for JWTs.
func (c *Config) UsesJWT() bool { return c.Secret != "" || c.PublicKeyFile != "" || c.usesJWKS() }

// BelievesClients reports whether a client's user is what it says, without a proof.
func (c *Config) BelievesClients() bool { return c.Mode == ModeNone }

// NeedsTokens reports whether this server decides by a client's token.
func (c *Config) NeedsTokens() bool { return c.Mode == ModeToken }

// NeedsHandshake reports whether the authenticator is a Decider: comet then sends logic the whole
// auth body, and the header of a WebSocket's request.
func (c *Config) NeedsHandshake() bool { return c.Mode == ModeWebhook }

func (c *Config) usesJWKS() bool { return c.JWKSFile != "" || c.JWKSURL != "" }

// RoomsWebhook returns the address of the backend that rules of rooms ask, or an empty string if there is none.
func (c *Config) RoomsWebhook() string { return cmp.Or(c.RoomsWebhookURL, c.WebhookURL) }

// checkWebhook is Check for the webhooks.
func (c *Config) checkWebhook(refuse func(key, wrong, fix string)) {
	if c.Mode != ModeWebhook && c.WebhookURL != "" {
		refuse("webhook_url", "is given, but auth.mode is "+c.Mode, "set auth.mode to webhook, or leave it out")
	}
	if c.RoomsWebhookURL != "" {
		if wrong, fix := webhook.CheckURL(c.RoomsWebhookURL); wrong != "" {
			refuse("rooms_webhook_url", wrong, fix)
		}
	}
	if c.Mode == ModeWebhook {
		if c.UsesJWT() {
			refuse("mode", "is webhook, but JWT keys are given, which would check nothing", "leave the keys out, or set it to token")
		}
		if wrong, fix := webhook.CheckURL(c.WebhookURL); wrong != "" {
			refuse("webhook_url", wrong, fix)
		}
	}
	if c.Mode != ModeWebhook && c.RoomsWebhookURL == "" {
		return
	}
	if len(c.WebhookSecrets) == 0 {
		refuse("webhook_secrets", "is empty, so the backend could not tell imgo's calls from others",
			"use whsec_ and the output of: openssl rand -base64 32")
	}
	for i, secret := range c.WebhookSecrets {
		if wrong, fix := webhook.CheckSecret(secret); wrong != "" {
			refuse("webhook_secrets", fmt.Sprintf("number %d %s", i+1, wrong), fix)
		}
	}
}

// Check calls refuse for each setting that cannot be used, with its key, what is
// wrong, and the fix. It does not read files.
func (c *Config) Check(refuse func(key, wrong, fix string)) {
	if c.Mode == ModeNone && c.UsesJWT() {
		refuse("mode", "is none, but JWT keys are given, which would check nothing", "set it to token, or leave the keys out")
	}
	if n := len(c.Secret); n > 0 && n < minSecret {
		refuse("jwt_secret", fmt.Sprintf("has %d bytes", n),
			fmt.Sprintf("use at least %d, such as the output of: openssl rand -hex 32", minSecret))
	}
	c.checkWebhook(refuse)
	if c.UserClaim == "" {
		refuse("user_claim", "is empty", `use "sub", or name another claim`)
	}
	if c.JWKSURL == "" {
		return
	}
	u, err := url.Parse(c.JWKSURL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		refuse("jwks_url", fmt.Sprintf("is %q, which is no web address", settings.HideCredentials(c.JWKSURL)), "write https://…")
	case u.Scheme == "http" && !loopback.Host(u.Hostname()):
		// On the way to another host somebody could put in other keys.
		refuse("jwks_url", "is not https, so anybody on the way could hand out keys", "use https://")
	}
}
