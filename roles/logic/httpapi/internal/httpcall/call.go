// Package httpcall is one HTTP request under way, as the APIs of all generations see it.
// It has the query, the body within the bounds, the answer, and the form of an error.
//
// It guarantees that a body over the limit is refused without being read whole,
// and that few large bodies are in memory at once. It knows no path, and
// decides nothing about callers.
package httpcall

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/internal/lazyctx"
)

// Shared is what all calls of an API have in common.
type Shared struct {
	// MaxBody is the largest request body in bytes.
	MaxBody int64
	// Large has room for the large bodies that may be in memory at once. A
	// value in it is a place that is taken.
	Large chan struct{}
	// Timeout bounds a call: see Bound.
	Timeout time.Duration
	// Report counts an error, logs it if it is the server's fault, and returns
	// what the caller is told.
	Report func(c *Call, err error) Problem
}

// Call is one request under way. It belongs to its handler's goroutine.
type Call struct {
	W http.ResponseWriter
	R *http.Request
	// Ctx ends with the request or after its bound.
	Ctx context.Context
	// Status is the status of the answer, 0 before there is one.
	Status int
	// Caller is the caller's name for the log and the metrics.
	Caller string

	shared *Shared
	// cancel ends Ctx. It is nil before Bound.
	cancel func()
	query  url.Values
	// placed says that the call holds one of the places for large bodies.
	placed bool
}

// New begins a call. Finish has to be called when it is answered.
func New(shared *Shared, w http.ResponseWriter, r *http.Request) *Call {
	return &Call{W: w, R: r, Ctx: r.Context(), Caller: "none", shared: shared}
}

// Bound makes Ctx end after Shared.Timeout from now. A second call takes the place of the first.
func (c *Call) Bound() {
	if c.cancel != nil {
		c.cancel()
	}
	c.Ctx, c.cancel = lazyctx.Timeout(c.R.Context(), c.shared.Timeout)
}

// Finish frees what the call holds.
func (c *Call) Finish() {
	if c.cancel != nil {
		c.cancel()
	}
	if c.placed {
		<-c.shared.Large
		c.placed = false
	}
}

// Report counts and logs an error that the handler answers itself, and returns
// what the caller is told.
func (c *Call) Report(err error) Problem { return c.shared.Report(c, err) }

// Handler answers one request, or returns the error that the API's form shows.
type Handler func(*Call) error

// Form is how one API answers errors.
type Form struct {
	Problem func(*Call, Problem)
	// WrongMethod answers a method that a path does not have. allowed is nil
	// where the API has no such path.
	WrongMethod func(c *Call, path string, allowed []string)
	// Head says that HEAD is answered like GET. The ancestors refuse it.
	Head bool
}

// Route is a method of a path.
type Route struct {
	Path, Method string
	Scope        Scope
	Handler      Handler
}

// Scope is the right that an API key needs for a route.
type Scope string

// The scopes.
const (
	ScopePush   Scope = "push"   // send messages
	ScopeRead   Scope = "read"   // see users, rooms, nodes and events
	ScopeUsers  Scope = "users"  // act on a user: close sessions, take messages
	ScopeTokens Scope = "tokens" // make and revoke tokens
	ScopeRooms  Scope = "rooms"  // put users into rooms
	ScopeAdmin  Scope = "admin"  // change the cluster, read profiles of the process
	// ScopeOpen is of routes that need no key. A key cannot have it.
	ScopeOpen Scope = "open"
)

// Param returns the first value of a query parameter, "" if it is missing.
func (c *Call) Param(name string) string { return c.Params().Get(name) }

// Params returns the query.
func (c *Call) Params() url.Values {
	if c.query == nil {
		c.query = c.R.URL.Query()
	}
	return c.query
}

// Number returns a whole number of the query, between lo and hi. It returns def
// if the parameter is missing.
func (c *Call) Number(name string, def, lo, hi int64) (int64, error) {
	if !c.Params().Has(name) {
		return def, nil
	}
	n, err := strconv.ParseInt(c.Param(name), 10, 64)
	if err != nil || n < lo || n > hi {
		return 0, envelope.Invalid(name, fmt.Sprintf("must be a whole number from %d to %d", lo, hi))
	}
	return n, nil
}

// Known returns an error if there are other query parameters than these. A
// misspelt filter would silently filter nothing.
func (c *Call) Known(names ...string) error {
	for name := range c.Params() {
		if !slices.Contains(names, name) {
			return envelope.Invalid(name, "is not a parameter of this path; it has "+cmp.Or(strings.Join(names, ", "), "none"))
		}
	}
	return nil
}

// PathName returns a name in the path, which ServeMux has unescaped.
func (c *Call) PathName(field string) (string, error) {
	name := c.R.PathValue(field)
	return name, envelope.CheckName(field, name)
}

// QueryName returns a name in the query. It may be one that a path cannot carry.
func (c *Call) QueryName(field string) (string, error) {
	if !c.Params().Has(field) {
		return "", envelope.Invalid(field, "is missing: name it, such as ?"+field+"=a")
	}
	name := c.Param(field)
	return name, envelope.CheckName(field, name)
}

// LargeBody is the size from which a body takes one of the places of Shared.Large.
const LargeBody = 64 << 10

// ReadBody reads the request's body. It may be called once. A length above the
// limit is refused before a byte is read, and an unannounced one as soon as the
// limit is passed. Memory grows with the bytes that have arrived, not with the
// announced length. A large body holds its place until the call ends, and the
// bound of the call begins again once the body was read.
func (c *Call) ReadBody() ([]byte, error) {
	limit := c.shared.MaxBody
	length := c.R.ContentLength
	if length > limit {
		c.W.Header().Set("Connection", "close")
		return nil, tooLarge(limit)
	}
	if c.R.Body == nil || length == 0 {
		return nil, nil
	}
	size := int64(512)
	if length > 0 {
		size = min(length, LargeBody)
	}
	body := http.MaxBytesReader(c.W, c.R.Body, limit)
	buf := make([]byte, 0, size)
	var err error
	for err == nil && int64(len(buf)) != length { // there is no more than what was announced
		if len(buf) == cap(buf) {
			if !c.placed && len(buf) >= LargeBody {
				if err := c.acquireSlot(); err != nil {
					return nil, err
				}
			}
			next := int64(cap(buf)) * 2
			if length > 0 {
				next = min(next, length)
			}
			buf = append(make([]byte, 0, next), buf...)
		}
		var n int
		n, err = body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
	}
	var over *http.MaxBytesError
	switch {
	case err == nil, errors.Is(err, io.EOF):
		if c.placed {
			c.Bound()
		}
		return buf, nil
	case errors.As(err, &over):
		return nil, tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded): // which ends the request's context, too
		c.W.Header().Set("Connection", "close")
		return nil, &envelope.Error{Code: CodeTooSlow, Message: "the request body came too slowly"}
	case c.R.Context().Err() != nil:
		return nil, fmt.Errorf("read the request body: %w", c.R.Context().Err())
	}
	return nil, envelope.Invalid("", "the request body ended early")
}

func tooLarge(limit int64) error {
	return envelope.Errorf(envelope.CodeTooLarge, "the request body is over the limit of %d bytes (http.body_limit)", limit)
}

// acquireSlot waits for one of the places for large bodies.
func (c *Call) acquireSlot() error {
	select {
	case c.shared.Large <- struct{}{}:
		c.placed = true
		return nil
	case <-c.Ctx.Done():
		return ErrNoPlace
	}
}

// ErrNoPlace means that no place for a large body became free in time.
var ErrNoPlace = envelope.Errorf(envelope.CodeUnavailable, "the server has as many large requests as it can hold; try again")

// Write answers with a status and a body.
func (c *Call) Write(status int, contentType string, body []byte) {
	c.Status = status
	h := c.W.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.W.WriteHeader(status)
	// An error means that the caller went away. net/http drops the body of a
	// HEAD by itself.
	_, _ = c.W.Write(body)
}

// Content types of answers.
const (
	ContentJSON = "application/json"
	ContentText = "text/plain; charset=utf-8"
)

// Reply answers with v as JSON.
func (c *Call) Reply(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	c.Write(status, ContentJSON, append(data, '\n'))
	return nil
}

// SetRetryAfter sets the header Retry-After, rounded up to whole seconds,
// where d is above 0.
func (c *Call) SetRetryAfter(d time.Duration) {
	if d > 0 {
		c.W.Header().Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
	}
}
