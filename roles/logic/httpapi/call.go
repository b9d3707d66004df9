package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/envelope"
)

// call is one request under way; it belongs to its handler's goroutine.
type call struct {
	api  *API
	form *form
	w    http.ResponseWriter
	r    *http.Request
	// ctx ends with the request or after Config.Timeout.
	ctx context.Context
	// key is who calls; nil where no keys are set.
	key *caller
	// status is what was answered; 0: nothing yet.
	status int
	query  url.Values
	// placed: the call holds one of the places for large bodies.
	placed bool
}

// keyName is the caller's name for the log and the metrics.
func (c *call) keyName() string { return c.key.label() }

// param is the first value of a query parameter, "" without one.
func (c *call) param(name string) string { return c.params().Get(name) }

func (c *call) params() url.Values {
	if c.query == nil {
		c.query = c.r.URL.Query()
	}
	return c.query
}

// number is a whole number of the query between lo and hi; def without one.
func (c *call) number(name string, def, lo, hi int64) (int64, error) {
	text := c.param(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < lo || n > hi {
		return 0, envelope.Invalid(name, fmt.Sprintf("must be a whole number from %d to %d", lo, hi))
	}
	return n, nil
}

// known refuses query parameters that the route does not have: a misspelt one
// would be a filter that filters nothing.
func (c *call) known(names ...string) error {
	for name := range c.params() {
		ok := false
		for _, n := range names {
			ok = ok || n == name
		}
		if !ok {
			return envelope.Invalid(name, "is not a parameter of this path; it has "+list(names))
		}
	}
	return nil
}

// list is names as a person writes them; "none" without any.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// largeBody is the size from which a body takes one of Config.MaxLarge places.
const largeBody = 64 << 10

// readBody reads the request's body, once. A length above the limit is refused
// before a byte of it is read; one that was not announced, as soon as it is
// passed. The memory grows with what has arrived, not with what was announced.
// The place that a large body takes is free again when the call ends.
func (c *call) readBody() ([]byte, error) {
	limit := c.api.cfg.MaxBody
	length := c.r.ContentLength
	if length > limit {
		c.w.Header().Set("Connection", "close")
		return nil, tooLarge(limit)
	}
	if c.r.Body == nil || length == 0 {
		return nil, nil
	}
	size := int64(512)
	if length > 0 {
		size = min(length, largeBody)
	}
	body := http.MaxBytesReader(c.w, c.r.Body, limit)
	buf := make([]byte, 0, size)
	for {
		if len(buf) == cap(buf) {
			if int64(len(buf)) == length {
				break // exactly what was announced; there is no more
			}
			if !c.placed && len(buf) >= largeBody {
				if err := c.takePlace(); err != nil {
					return nil, err
				}
			}
			next := int64(cap(buf)) * 2
			if length > 0 {
				next = min(next, length)
			}
			grown := make([]byte, len(buf), next)
			copy(grown, buf)
			buf = grown
		}
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		var over *http.MaxBytesError
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
		case errors.As(err, &over):
			return nil, tooLarge(limit)
		case c.r.Context().Err() != nil:
			return nil, fmt.Errorf("read the request body: %w", c.r.Context().Err())
		default:
			return nil, envelope.Invalid("", "the request body ended early or came too slowly")
		}
		break
	}
	return buf, nil
}

func tooLarge(limit int64) error {
	return envelope.Errorf(envelope.CodeTooLarge, "the request body is over the limit of %d bytes (http.body_limit)", limit)
}

// takePlace waits for one of the places for large bodies.
func (c *call) takePlace() error {
	select {
	case c.api.large <- struct{}{}:
		c.placed = true
		return nil
	case <-c.ctx.Done():
		return envelope.Errorf(envelope.CodeUnavailable, "the server has as many large requests as it can hold; try again")
	}
}

// write answers with a status and a body.
func (c *call) write(status int, contentType string, body []byte) {
	c.status = status
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	// An error means that the caller went away, and then nobody is there to
	// be told. net/http itself drops the body of a HEAD.
	_, _ = c.w.Write(body)
}

const (
	contentJSON = "application/json"
	contentText = "text/plain; charset=utf-8"
)

// reply answers with v as JSON.
func (c *call) reply(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	c.write(status, contentJSON, append(data, '\n'))
	return nil
}

func v1Form() *form {
	return &form{
		head: true,
		problem: func(c *call, p problem) {
			h := c.w.Header()
			if p.retryAfter > 0 {
				h.Set("Retry-After", strconv.Itoa(seconds(p.retryAfter)))
			}
			if p.status == http.StatusUnauthorized {
				h.Set("WWW-Authenticate", "Bearer")
			}
			c.write(p.status, contentJSON, append(appendProblem([]byte(`{"error":`), &p), "}\n"...))
		},
		wrongMethod: func(c *call, rt *route) {
			if rt.methods == nil {
				c.api.fail(c, envelope.Errorf(envelope.CodeNotFound, "nothing is at %s; /v1/openapi.json describes what there is", c.r.URL.Path))
				return
			}
			allowed := strings.Join(rt.allowed(), ", ")
			c.w.Header().Set("Allow", allowed)
			c.api.fail(c, envelope.Errorf(codeMethod, "%s takes %s, not %s", rt.path, allowed, c.r.Method))
		},
	}
}

// appendProblem appends {"code","message","field"}; a problem that no field
// is at fault for has none.
func appendProblem(b []byte, p *problem) []byte {
	b = append(b, `{"code":`...)
	b = appendString(b, string(p.code))
	b = append(b, `,"message":`...)
	b = appendString(b, p.message)
	if p.field != "" {
		b = append(b, `,"field":`...)
		b = appendString(b, p.field)
	}
	return append(b, '}')
}

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // its error only tells of that
	return b
}

// seconds rounds up to whole seconds, for Retry-After.
func seconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}
