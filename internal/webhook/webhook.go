// Package webhook posts signed JSON documents to an address that the operator configured, and reads
// the answers. Signatures follow Standard Webhooks (https://www.standardwebhooks.com), so that a
// receiver verifies them with a library that it already has.
//
// Every call is bounded: in time, in calls under way, and in the size of its answer. A redirect is not
// followed, because the operator named the one address that is trusted. After failures in a row no
// call is made for a while. The meaning of an answer is left to the caller. The package imports only
// internal/loopback of imgo.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"imgo/internal/loopback"
)

// ErrUnavailable is in the chain of each error of Post: there is no answer that counts, and the same
// call may succeed later.
var ErrUnavailable = errors.New("the webhook is unavailable")

// The outcomes that Config.Observe gets.
const (
	OutcomeAnswered = "answered" // with a status below 500 that is no redirect, 408 or 429
	OutcomeFailed   = "failed"   // no answer, one that is too large, a redirect, or another status
	OutcomeRefused  = "refused"  // not called: after failures, or with too many calls under way
)

const (
	// minSecret is the smallest size of a secret in bytes. Standard Webhooks asks for 24 to 64.
	minSecret = 24
	// tripAfter is the number of failures in a row after which no call is made for a while.
	tripAfter = 5
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 16 << 10
)

// Config says how an address is called. A zero field has the default that its comment names.
type Config struct {
	URL string
	// Secrets sign each call. While a secret is replaced there are two, and each call has a signature
	// of both.
	Secrets []string
	// Timeout bounds one call, and before that the wait of Post for its turn. Default: 3 s.
	Timeout time.Duration
	// InFlight bounds the calls under way. Default: 64.
	InFlight int
	// MaxAnswer bounds the body of an answer, in bytes. Default: 64 KiB.
	MaxAnswer int64
	// OpenFor is how long no call is made after failures in a row. Default: 5 s.
	OpenFor time.Duration
	// Observe is called with the outcome and the duration of each call, from any goroutine. Default:
	// nothing.
	Observe func(outcome string, took time.Duration)
	// Faults are for tests.
	Faults Faults
}

// CheckURL returns what is wrong with an address, and the fix. Both are empty for a good one.
func CheckURL(address string) (wrong, fix string) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return "is no web address", "write https://…"
	case u.User != nil:
		return "has a user or a password", "leave them out: each call is signed"
	case u.Scheme == "http" && !loopback.Host(u.Hostname()):
		return "is not https, so anybody on the way could read and answer the calls", "use https://"
	}
	return "", ""
}

// CheckSecret returns what is wrong with a secret, and the fix. Both are empty for a good one.
// Neither has a part of the secret in it.
func CheckSecret(secret string) (wrong, fix string) {
	const advice = `use whsec_ and the output of: openssl rand -base64 32`
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	switch {
	case err != nil:
		return "is not base64", advice
	case len(key) < minSecret:
		return fmt.Sprintf("has %d bytes", len(key)), advice
	}
	return "", ""
}

// Check calls refuse for an address and for secrets that cannot be used, with what is wrong and the fix.
func Check(address string, secrets []string, refuse func(wrong, fix string)) {
	if wrong, fix := CheckURL(address); wrong != "" {
		refuse("the url "+wrong, fix)
	}
	if len(secrets) == 0 {
		refuse("there are no secrets, so nobody could tell the calls from forged ones", "use whsec_ and the output of: openssl rand -base64 32")
	}
	for _, secret := range secrets {
		if wrong, fix := CheckSecret(secret); wrong != "" {
			refuse("a secret "+wrong, fix)
		}
	}
}

// Caller calls one address. Safe for concurrent use.
type Caller struct {
	cfg     Config
	signers []*standardwebhooks.Webhook
	client  *http.Client
	slots   chan struct{}
	breaker *gobreaker.CircuitBreaker[Answer]
}

// Answer is what an address answered.
type Answer struct {
	Status int
	Body   []byte
	// RetryAfter is how long the address asks to wait before the next call, or 0 if it does not ask.
	RetryAfter time.Duration
}

// OK reports whether the status is one of success.
func (a Answer) OK() bool { return a.Status/100 == 2 }

// New returns a Caller. It returns an error for an address or a secret that cannot be used.
func New(cfg Config) (*Caller, error) {
	if wrong, fix := CheckURL(cfg.URL); wrong != "" {
		return nil, fmt.Errorf("the webhook's address %s: %s", wrong, fix)
	}
	if len(cfg.Secrets) == 0 {
		return nil, errors.New("the webhook has no secret")
	}
	cfg = withDefaults(cfg)
	c := &Caller{cfg: cfg, slots: make(chan struct{}, cfg.InFlight)}
	for _, secret := range cfg.Secrets {
		if wrong, fix := CheckSecret(secret); wrong != "" {
			return nil, fmt.Errorf("a secret of the webhook %s: %s", wrong, fix)
		}
		signer, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			return nil, errors.New("a secret of the webhook is malformed") // the library's error may have a part of it
		}
		c.signers = append(c.signers, signer)
	}
	transport := cfg.Faults.Transport
	if transport == nil {
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConnsPerHost: cfg.InFlight, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: maxHeader,
		}
	}
	c.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.breaker = gobreaker.NewCircuitBreaker[Answer](gobreaker.Settings{
		Timeout:     cfg.OpenFor,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		// A caller that goes away says nothing about the address.
		IsExcluded: func(err error) bool {
			var not uncounted
			return errors.Is(err, context.Canceled) || errors.As(err, &not)
		},
	})
	return c, nil
}

func withDefaults(cfg Config) Config {
	cfg.Timeout = cmp.Or(cfg.Timeout, 3*time.Second)
	cfg.InFlight = cmp.Or(cfg.InFlight, 64)
	cfg.MaxAnswer = cmp.Or(cfg.MaxAnswer, 64<<10)
	cfg.OpenFor = cmp.Or(cfg.OpenFor, 5*time.Second)
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration) {}
	}
	return cfg
}

// Retry reports whether the receiver says that it failed, so that the same call may succeed later: 408,
// 429, and 500 and above.
func (a Answer) Retry() bool {
	return a.Status >= http.StatusInternalServerError || a.Status == http.StatusRequestTimeout || a.Status == http.StatusTooManyRequests
}

// Document is what a call sends.
type Document struct {
	// ID names the call. It stays the same if the caller repeats it, so that the receiver can drop the
	// repetition.
	ID string
	// Type is the content type. Empty: application/json.
	Type string
	Body []byte
}

// uncounted is a failure that says nothing about the address: it does not make later calls fail.
type uncounted struct{ error }

func (e uncounted) Unwrap() error { return e.error }

// Post sends a JSON document and returns the answer. Post returns an error, with ErrUnavailable in its
// chain, if there is no answer, or one that says that the receiver failed: 408, 429, 500 and above, and a
// redirect. The Answer has RetryAfter then, if the receiver asked for it. After failures in a row Post makes
// no call for a while. 429 and an answer with Retry-After are no failures of the receiver as a whole.
func (c *Caller) Post(ctx context.Context, id string, document []byte) (Answer, error) {
	wait, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	return c.call(ctx, wait, func(ctx context.Context, late bool, outcome *string) (Answer, error) {
		return c.breaker.Execute(func() (Answer, error) {
			*outcome = OutcomeFailed
			answer, err := c.post(ctx, Document{ID: id, Body: document})
			switch {
			case late && errors.Is(err, context.DeadlineExceeded):
				return Answer{}, uncounted{err}
			case err != nil:
				return Answer{}, err
			case answer.Status/100 == 3:
				return Answer{}, fmt.Errorf("status %d: redirects are not followed", answer.Status)
			case answer.Status == http.StatusTooManyRequests || answer.Retry() && answer.RetryAfter > 0:
				// The address is there, and this call is too early. Calls for other clients may not be.
				return Answer{RetryAfter: answer.RetryAfter}, uncounted{fmt.Errorf("status %d", answer.Status)}
			case answer.Retry():
				return Answer{}, fmt.Errorf("status %d", answer.Status)
			}
			return answer, nil
		})
	})
}

// Send makes one call, whatever became of the calls before, and returns any answer. It returns an
// error, with ErrUnavailable in its chain, if there is none. Only ctx bounds the wait for its turn, so
// no call fails because others are under way. The caller decides when to repeat it.
func (c *Caller) Send(ctx context.Context, document Document) (Answer, error) {
	return c.call(ctx, ctx, func(ctx context.Context, _ bool, outcome *string) (Answer, error) {
		*outcome = OutcomeFailed
		return c.post(ctx, document)
	})
}

// call waits for its turn until wait is done. Then it runs send within Timeout. late tells send that the wait has left
// it less than that.
func (c *Caller) call(
	ctx, wait context.Context, send func(ctx context.Context, late bool, outcome *string) (Answer, error),
) (Answer, error) {
	start := time.Now()
	outcome := OutcomeRefused
	defer func() { c.cfg.Observe(outcome, time.Since(start)) }()
	late := false
	select {
	case c.slots <- struct{}{}:
	default:
		select {
		case c.slots <- struct{}{}:
		case <-wait.Done():
			return Answer{}, fmt.Errorf("%w: %d calls are under way: %w", ErrUnavailable, c.cfg.InFlight, wait.Err())
		}
		deadline, ok := ctx.Deadline()
		late = ok && time.Until(deadline) < c.cfg.Timeout
	}
	defer func() { <-c.slots }()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	answer, err := send(ctx, late, &outcome)
	if err != nil {
		return answer, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !answer.Retry() && answer.Status/100 != 3 {
		outcome = OutcomeAnswered
	}
	return answer, nil
}

func (c *Caller) post(ctx context.Context, document Document) (Answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.URL, bytes.NewReader(document.Body))
	if err != nil {
		return Answer{}, fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Content-Type", cmp.Or(document.Type, "application/json"))
	request.Header.Set("User-Agent", "imgo")
	if err := c.sign(request.Header, document.ID, document.Body); err != nil {
		return Answer{}, err
	}
	reply, err := c.client.Do(request)
	if err != nil {
		return Answer{}, fmt.Errorf("call the webhook: %w", withoutURL(err))
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, c.cfg.MaxAnswer+1))
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("read the answer: %w", err)
	case int64(len(body)) > c.cfg.MaxAnswer:
		return Answer{}, fmt.Errorf("the answer has more than %d bytes", c.cfg.MaxAnswer)
	}
	return Answer{Status: reply.StatusCode, Body: body, RetryAfter: retryAfter(reply.Header)}, nil
}

// MaxRetryAfter bounds what a receiver may ask for.
const MaxRetryAfter = time.Hour

// retryAfter reads the header Retry-After, in seconds or as a date.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, MaxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), MaxRetryAfter)
	}
	return 0
}

// sign sets the headers of Standard Webhooks.
func (c *Caller) sign(h http.Header, id string, document []byte) error {
	now := time.Now()
	signatures := make([]string, len(c.signers))
	for i, signer := range c.signers {
		var err error
		if signatures[i], err = signer.Sign(id, now, document); err != nil {
			return fmt.Errorf("sign the call: %w", err)
		}
	}
	h.Set(standardwebhooks.HeaderWebhookID, id)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return nil
}

// withoutURL returns the cause of a client's error. The address may have a secret in its query.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// Close closes idle connections. Calls under way are not affected.
func (c *Caller) Close() { c.client.CloseIdleConnections() }
