// Package pushapi is for backends: it pushes messages, makes tokens, and manages rooms and users over the HTTP
// API of imgo. A Client spreads its calls over one or more servers. It avoids a server for a second after a
// call without an answer.
//
//	api, err := pushapi.New(pushapi.Config{Servers: []string{"https://push.example.com:7172"}, Key: key})
//	…
//	results, err := api.Push(ctx, &pushapi.Push{User: "123", Body: order, IdempotencyKey: order.ID})
//
// A call is repeated at another server only if it cannot act twice. That is so if it has an idempotency key,
// if it asks or sets only, or if the first server cannot have received it.
//
// Webhook verifies the calls that imgo makes to a backend. The API is described in docs/reference/api.md.
package pushapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a Client. Servers is required.
type Config struct {
	// Servers holds the HTTP addresses as http://host:port or host:port.
	Servers []string
	// Key is the API key. Empty means that none is sent.
	Key string
	// Timeout bounds one call. 0 means 15 s.
	Timeout time.Duration
	// Conns is the number of idle connections that are kept to each server. 0 means 16.
	Conns int
	// MaxAnswer bounds an answer, in bytes. 0 means 4 MiB.
	MaxAnswer int64
	// TLS is for https:// addresses. Nil means the root certificates of the system.
	TLS *tls.Config
}

// Client calls the API. It is safe for concurrent use.
type Client struct {
	cfg     Config
	servers []string
	http    *http.Client
	next    atomic.Uint64

	mu      sync.Mutex
	avoided []time.Time // for each server, the time until which it is avoided
}

// avoidFor is the time for which a server that did not answer is avoided, if there are others.
const avoidFor = time.Second

// New returns a Client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg}
	for _, text := range cfg.Servers {
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("API address %q is no web address: write http://host:port", text)
		}
		if server := strings.TrimRight(u.String(), "/"); !slices.Contains(c.servers, server) {
			c.servers = append(c.servers, server)
		}
	}
	if len(c.servers) == 0 {
		return nil, errors.New("no server is named: give at least one address of the API")
	}
	if c.cfg.Timeout == 0 {
		c.cfg.Timeout = 15 * time.Second
	}
	if c.cfg.Conns == 0 {
		c.cfg.Conns = 16
	}
	if c.cfg.MaxAnswer == 0 {
		c.cfg.MaxAnswer = 4 << 20
	}
	c.avoided = make([]time.Time, len(c.servers))
	c.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: cfg.TLS, MaxIdleConnsPerHost: c.cfg.Conns, IdleConnTimeout: 30 * time.Second,
			DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, ForceAttemptHTTP2: true,
		},
	}
	return c, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Servers returns the addresses of the servers.
func (c *Client) Servers() []string { return slices.Clone(c.servers) }

// Next returns the server for the next call. Successive calls return the servers in turn.
func (c *Client) Next() string { return c.from(int(c.next.Add(1) % uint64(len(c.servers)))) }

// After returns the server to call after a failed one.
func (c *Client) After(server string) string { return c.from(slices.Index(c.servers, server) + 1) }

// from returns the first server from index on that is not avoided, or the one at index if all are.
func (c *Client) from(index int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for i := range c.servers {
		if at := (index + i) % len(c.servers); !now.Before(c.avoided[at]) {
			return c.servers[at]
		}
	}
	return c.servers[index%len(c.servers)]
}

// avoid marks a server as avoided for avoidFor.
func (c *Client) avoid(server string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.servers, server); i >= 0 {
		c.avoided[i] = time.Now().Add(avoidFor)
	}
}

// Error is an answer of the server with an error status. Code, Message and Field are empty if the
// answer does not have the format of imgo.
type Error struct {
	Server  string // empty for a push of a batch
	Status  int    // HTTP status
	Code    string // such as "invalid"; see docs/reference/api.md
	Message string // for a person
	Field   string // the field of the request that is wrong
	Body    []byte // the answer, up to 300 bytes
}

func (e *Error) Error() string {
	server := e.Server
	if server == "" {
		server = "the server"
	}
	text := fmt.Sprintf("%s answered %d: %s (%s)", server, e.Status, e.Message, e.Code)
	if e.Message == "" {
		text = fmt.Sprintf("%s answered %d: %s", server, e.Status, bytes.TrimSpace(e.Body))
	}
	if e.Status == http.StatusUnauthorized {
		text += " (is the API key right?)"
	}
	return text
}

// Final reports whether the same call would fail again, because the caller is at fault.
func (e *Error) Final() bool {
	return e.Status >= 400 && e.Status < 500 && e.Status != http.StatusTooManyRequests && e.Status != http.StatusRequestTimeout
}

// notSentError is the error of a call for which no connection could be opened.
type notSentError struct{ error }

func (e notSentError) Unwrap() error { return e.error }

// NotSent reports whether err means that no byte of the request was sent, because the connection
// could not be opened. The handshake of TLS is a part of that.
func NotSent(err error) bool {
	var notSent notSentError
	return errors.As(err, &notSent)
}

// Call calls one server. It sends body as JSON and parses the answer into result. body and
// result may be nil. The error is an *Error if the server answered.
func (c *Client) Call(ctx context.Context, server, method, path string, body, result any) error {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		content = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	request, err := http.NewRequestWithContext(ctx, method, server+path, content)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.cfg.Key != "" {
		request.Header.Set("Authorization", "Bearer "+c.cfg.Key)
	}
	response, err := c.http.Do(request)
	if err != nil {
		c.avoid(server)
		if !connected.Load() {
			err = notSentError{err}
		}
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, c.cfg.MaxAnswer+1))
	switch {
	case err != nil:
		c.avoid(server)
		return fmt.Errorf("read the answer of %s: %w", server, err)
	case int64(len(answer)) > c.cfg.MaxAnswer:
		return fmt.Errorf("the answer of %s is larger than %d bytes", server, c.cfg.MaxAnswer)
	case response.StatusCode >= 300:
		return readError(server, response.StatusCode, answer)
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return &Error{Server: server, Status: response.StatusCode, Body: answer[:min(len(answer), 300)]}
	}
	return nil
}

// problem is the error in an answer.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field"`
}

// readError parses an answer with an error status.
func readError(server string, status int, answer []byte) error {
	e := &Error{Server: server, Status: status, Body: answer[:min(len(answer), 300)]}
	var body struct {
		Error problem `json:"error"`
	}
	if json.Unmarshal(answer, &body) == nil {
		e.Code, e.Message, e.Field = body.Error.Code, body.Error.Message, body.Error.Field
	}
	return e
}

// tryPause is the pause between two attempts of a call.
const tryPause = 100 * time.Millisecond

// ask calls one of the servers with anywhere and returns its answer. what names the call in errors.
func ask[T any](ctx context.Context, c *Client, what string, again bool, method, path string, body any) (answer T, err error) {
	if err := c.anywhere(ctx, again, method, path, body, &answer); err != nil {
		var none T
		return none, fmt.Errorf("%s: %w", what, err)
	}
	return answer, nil
}

// anywhere calls one server after another until one answers, in up to three rounds. again says whether the call
// may be made twice. If not, it is repeated only if the server cannot have received it. It stops if an answer
// says that the call is wrong.
func (c *Client) anywhere(ctx context.Context, again bool, method, path string, body, result any) error {
	server := c.Next()
	for try := 1; ; try++ {
		err := c.Call(ctx, server, method, path, body, result)
		var answer *Error
		final := errors.As(err, &answer) && answer.Final()
		if err == nil || final || ctx.Err() != nil || try >= 3*len(c.servers) || !again && !NotSent(err) {
			return err
		}
		timer := time.NewTimer(tryPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		}
		server = c.After(server)
	}
}
