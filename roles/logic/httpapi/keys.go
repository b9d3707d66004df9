package httpapi

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"imgo/envelope"
	"imgo/internal/loopback"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Key is one caller of the API.
type Key struct {
	Name   string   `toml:"name" example:"\"backend\"" doc:"The caller's name in logs, limits and metrics."`
	Key    string   `toml:"key" secret:"true" example:"\"…\"" doc:"The secret, such as the output of: openssl rand -hex 16"`
	Rate   float64  `toml:"rate" example:"0" doc:"Requests a second. 0: no limit."`
	Scopes []string `toml:"scopes" example:"[\"push\", \"read\"]" doc:"What it may do: push, read, users, tokens, rooms, admin. Empty: everything."`
	Users  []string `toml:"users" example:"[\"shop-*\"]" doc:"The users that it may name. With users or rooms, it may name nothing else."`
	Rooms  []string `toml:"rooms" example:"[\"shop/*\"]" doc:"The rooms that it may name. A star stands for any text."`

	// Burst is the number of requests that it may make at once. 0 means Rate, and at least 1.
	Burst int
}

// caller is a Key in the form for checking it, without the secret.
type caller struct {
	name    string
	hash    [sha256.Size]byte
	limiter *rate.Limiter // nil: no limit
	scopes  []Scope       // empty: all
	// users and rooms have the patterns of what the caller may name. If both are empty, it may name all.
	users, rooms []string
}

// label is the caller's name for the log and the metrics. The caller may be nil.
func (c *caller) label() string { return cmp.Or(c.pusher(), "none") }

// pusher returns the name that the log keeps of a push, or an empty string if there are no keys.
func (c *caller) pusher() string {
	if c == nil {
		return ""
	}
	return c.name
}

// keyring has the callers. An empty keyring admits every request.
type keyring struct {
	callers []*caller
	wrong   throttle
}

func newKeyring(keys []Key) (*keyring, error) {
	ring := &keyring{}
	names := make(map[string]bool, len(keys))
	hashes := make(map[[sha256.Size]byte]string, len(keys))
	for _, k := range keys {
		if err := envelope.CheckName("name", k.Name); err != nil {
			return nil, fmt.Errorf("API key %q: %w", k.Name, err)
		}
		hash := sha256.Sum256([]byte(k.Key))
		switch {
		case strings.Contains(k.Name, "/"):
			return nil, fmt.Errorf("API key %q: name must not have a slash", k.Name)
		case names[k.Name]:
			return nil, fmt.Errorf("API key %q: name is used twice", k.Name)
		case k.Key == "":
			return nil, fmt.Errorf("API key %q: key must not be empty", k.Name)
		case strings.TrimSpace(k.Key) != k.Key:
			return nil, fmt.Errorf("API key %q: key begins or ends with a space, which a header cannot carry", k.Name)
		case hashes[hash] != "":
			return nil, fmt.Errorf("API key %q: key is the same as %q's", k.Name, hashes[hash])
		case k.Rate < 0 || math.IsNaN(k.Rate) || math.IsInf(k.Rate, 0) || k.Burst < 0:
			return nil, fmt.Errorf("API key %q: rate and burst must be numbers of 0 or more", k.Name)
		}
		names[k.Name], hashes[hash] = true, k.Name
		var wrong error
		k.Check(func(what, fix string) { wrong = fmt.Errorf("API key %q: %s: %s", k.Name, what, fix) })
		if wrong != nil {
			return nil, wrong
		}
		c := &caller{name: k.Name, hash: hash, users: k.Users, rooms: k.Rooms}
		for _, s := range k.Scopes {
			c.scopes = append(c.scopes, Scope(s))
		}
		if k.Rate > 0 {
			burst := k.Burst
			if burst == 0 {
				burst = int(max(1, min(math.Ceil(k.Rate), math.MaxInt32)))
			}
			c.limiter = rate.NewLimiter(rate.Limit(k.Rate), burst)
		}
		ring.callers = append(ring.callers, c)
	}
	return ring, nil
}

// open reports whether no keys are set.
func (k *keyring) open() bool { return len(k.callers) == 0 }

// The errors of identify.
var (
	errNoKey = &envelope.Error{Code: envelope.CodeUnauthorized, Field: "Authorization",
		Message: "header is missing: send \"Authorization: Bearer <API key>\" or \"X-API-Key: <API key>\""}
	errBadKey = &envelope.Error{Code: envelope.CodeUnauthorized, Field: "Authorization",
		Message: "header has an API key that this server does not know"}
	errBadForm  = &envelope.Error{Code: envelope.CodeUnauthorized, Field: "Authorization", Message: "header is not \"Bearer <API key>\""}
	errTwoForms = &envelope.Error{Code: envelope.CodeUnauthorized, Field: "Authorization",
		Message: "and X-API-Key headers are both there: send one of them"}
)

// identify returns the caller of a request, nil if no keys are set.
func (k *keyring) identify(r *http.Request, now time.Time) (*caller, error) {
	if k.open() {
		return nil, nil
	}
	key, err := keyOf(r.Header)
	if err != nil {
		return nil, err
	}
	found := k.find(key)
	if found == nil {
		if wait := k.wrong.note(r.RemoteAddr, now); wait > 0 {
			return nil, &httpcall.Limited{RetryAfter: wait,
				Cause: envelope.Errorf(envelope.CodeRateLimited, "too many requests with a wrong API key came from this address")}
		}
		return nil, errBadKey
	}
	return found, nil
}

// keyOf returns the API key that a request has.
func keyOf(h http.Header) (string, error) {
	authorization, key := h.Get("Authorization"), h.Get("X-Api-Key")
	switch {
	case authorization != "" && key != "":
		return "", errTwoForms
	case authorization != "":
		scheme, rest, ok := strings.Cut(authorization, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return "", errBadForm
		}
		key = strings.TrimSpace(rest)
	}
	if key == "" {
		return "", errNoKey
	}
	return key, nil
}

// find returns the caller of a key, nil for a wrong one. A wrong key takes as long as
// a right one.
func (k *keyring) find(key string) *caller {
	hash := sha256.Sum256([]byte(key))
	var found *caller
	for _, c := range k.callers {
		if subtle.ConstantTimeCompare(hash[:], c.hash[:]) == 1 {
			found = c
		}
	}
	return found
}

// KeyCheck lets only callers with an API key through to pages that are not part of the API.
type KeyCheck struct{ keys *keyring }

// NewKeyCheck returns a KeyCheck for the keys of the API.
func NewKeyCheck(keys []Key) (*KeyCheck, error) {
	ring, err := newKeyring(keys)
	if err != nil {
		return nil, fmt.Errorf("check the API keys: %w", err)
	}
	return &KeyCheck{ring}, nil
}

// Require returns a handler that calls h for callers whose key has the scope. Without
// keys nobody gets in, and message says what else there is.
func (g *KeyCheck) Require(scope Scope, message string, h http.Handler) http.Handler {
	form := v1Form()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := g.keys.identify(r, time.Now())
		switch {
		case err != nil:
		case caller == nil:
			err = envelope.Errorf(httpcall.CodeForbidden, "%s", message)
		default:
			if err = caller.checkScope(scope); err == nil {
				err = caller.admit(time.Now())
			}
		}
		if err == nil {
			h.ServeHTTP(w, r)
			return
		}
		shared := httpcall.Shared{Report: func(_ *httpcall.Call, err error) httpcall.Problem { return httpcall.Explain(err) }}
		c := httpcall.New(&shared, w, r)
		form.Problem(c, c.Report(err))
	})
}

// admit takes one request from the caller's allowance.
func (c *caller) admit(now time.Time) error {
	if c == nil || c.limiter == nil {
		return nil
	}
	r := c.limiter.ReserveN(now, 1)
	if wait := r.DelayFrom(now); !r.OK() || wait > 0 {
		r.CancelAt(now)
		return &httpcall.Limited{
			Cause: envelope.Errorf(envelope.CodeRateLimited, "the API key %q may make %g requests a second", c.name,
				float64(c.limiter.Limit())),
			RetryAfter: max(wait, time.Second),
		}
	}
	return nil
}

// scope makes an idempotency key the caller's own.
func (c *caller) scope(key string) string {
	if key == "" {
		return ""
	}
	return c.pusher() + "/" + key
}

// checkLocal refuses what a browser sends for a page of another site, and what does not
// come straight from a program of this machine. It does so only if there are no API keys.
// Without a secret to know, any page that a developer has open could push to 127.0.0.1,
// and behind a proxy everybody could.
func (a *API) checkLocal(r *http.Request) error {
	if !a.keys.open() {
		return nil
	}
	if err := a.origins.Check(r); err != nil {
		return &envelope.Error{Code: httpcall.CodeForbidden, Field: "Origin",
			Message: "is another site's: its pages may not call an API that has no key"}
	}
	var no *loopback.Refusal
	if errors.As(loopback.Check(r, a.trustsHost), &no) {
		return &envelope.Error{Code: httpcall.CodeForbidden, Field: no.Header,
			Message: no.Message + "; an API without keys answers programs of its own machine only: set http.api_keys"}
	}
	return nil
}

// trustsHost reports whether a host is that of a trusted origin.
func (a *API) trustsHost(host string) bool {
	return slices.ContainsFunc(a.cfg.TrustedOrigins, func(origin string) bool {
		_, trusted, _ := strings.Cut(origin, "://")
		return strings.EqualFold(trusted, host)
	})
}

// UnmarshalText reads "name:key", "name:key:rate", "name:key:rate:scope+scope" or a
// bare key, as a flag or the environment gives it.
func (k *Key) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ":")
	key := Key{Name: "default"}
	if len(parts) > 4 {
		return errors.New("is not an API key: write name:key, name:key:rate or name:key:rate:scope+scope")
	}
	if len(parts) > 3 {
		key.Scopes = strings.Split(parts[3], "+")
	}
	if len(parts) > 2 {
		rate, err := strconv.ParseFloat(parts[2], 64)
		if err != nil {
			// The value is a secret: it is not repeated.
			return errors.New("has a rate that is not a number: write name:key:rate, such as backend:$(openssl rand -hex 16):100")
		}
		key.Rate = rate
	}
	if len(parts) > 1 {
		key.Name = parts[0]
	}
	key.Key = parts[min(len(parts)-1, 1)]
	*k = key
	return nil
}
