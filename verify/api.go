package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// api is the HTTP API at its addresses.
type api struct {
	bases   []string
	key     string
	timeout time.Duration
	http    *http.Client
	turn    atomic.Uint64

	mu      sync.Mutex
	shunned []time.Time // until when, by address
}

// shunFor is how long an address that did not answer is left alone, where
// there are others.
const shunFor = time.Second

func newAPI(cfg Config) (*api, error) {
	a := &api{key: cfg.Key, timeout: cfg.CallTimeout, http: newHTTP(nil, cfg.Callers)}
	for _, text := range cfg.API {
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("API address %q is no web address: write http://host:port", text)
		}
		if base := strings.TrimRight(u.String(), "/"); !slices.Contains(a.bases, base) {
			a.bases = append(a.bases, base)
		}
	}
	a.shunned = make([]time.Time, len(a.bases))
	return a, nil
}

func (a *api) close() { a.http.CloseIdleConnections() }

// next is an address, another one each time.
func (a *api) next() string { return a.from(int(a.turn.Add(1) % uint64(len(a.bases)))) }

// after is the address after one.
func (a *api) after(base string) string { return a.from(slices.Index(a.bases, base) + 1) }

// from is the first address from an index on that is not shunned, or else the
// one there.
func (a *api) from(index int) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for i := range a.bases {
		if at := (index + i) % len(a.bases); !now.Before(a.shunned[at]) {
			return a.bases[at]
		}
	}
	return a.bases[index%len(a.bases)]
}

// shun leaves an address alone for a while.
func (a *api) shun(base string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shunned[slices.Index(a.bases, base)] = time.Now().Add(shunFor)
}

// statusError is an answer that is not a success.
type statusError struct {
	base   string
	status int
	body   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answered %d: %s", e.base, e.status, strings.TrimSpace(e.body))
}

// final says that the caller is at fault: repeating would not help.
func (e *statusError) final() bool {
	return e.status >= 400 && e.status < 500 && e.status != http.StatusTooManyRequests && e.status != http.StatusRequestTimeout
}

// unsent says that no byte of a request has left: nobody listened.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 4 << 20

// call sends a request to one address; body and into may be nil.
func (a *api) call(ctx context.Context, base, method, path, key string, body, into any) error {
	var send io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		send = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, send)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if a.key != "" {
		req.Header.Set("Authorization", "Bearer "+a.key)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		a.shun(base)
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		a.shun(base)
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode >= 300 {
		return &statusError{base, resp.StatusCode, string(data[:min(len(data), 300)])}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read the answer of %s, %.100q: %w", base, data, err)
	}
	return nil
}

// anywhere calls one address after the other until one answers, a few times
// over, or says that the call is wrong.
func (a *api) anywhere(ctx context.Context, method, path string, body, into any) error {
	base := a.next()
	for try := 1; ; try++ {
		err := a.call(ctx, base, method, path, "", body, into)
		var answer *statusError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case errors.As(err, &answer) && answer.status == http.StatusUnauthorized:
			return fmt.Errorf("%w (is the API key right?)", err)
		case errors.As(err, &answer) && answer.final(), try >= 3*len(a.bases):
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		base = a.after(base)
	}
}

// newToken makes a token for a user, which ends by itself if it is not revoked.
func (a *api) newToken(ctx context.Context, user string, ttl time.Duration) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	err := a.anywhere(ctx, http.MethodPost, "/v1/tokens", map[string]string{"user": user, "ttl": ttl.String()}, &answer)
	if err == nil && answer.Token == "" {
		err = errors.New("the answer has none")
	}
	if err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return answer.Token, nil
}

// revoke takes a token back.
func (a *api) revoke(ctx context.Context, token string) error {
	err := a.anywhere(ctx, http.MethodPost, "/v1/tokens/revoke", map[string]any{"token": token, "close": false}, nil)
	if err != nil {
		return fmt.Errorf("revoke a token: %w", err)
	}
	return nil
}

// nodeInfo is a node of GET /v1/nodes.
type nodeInfo struct {
	Name    string            `json:"name"`
	Leaving bool              `json:"leaving"`
	Clients map[string]string `json:"clients"`
}

// nodes are the nodes as one of the addresses knows them, and the host of that
// address.
func (a *api) nodes(ctx context.Context) (nodes []nodeInfo, host string, err error) {
	var answer struct {
		Nodes []nodeInfo `json:"nodes"`
	}
	base := a.next()
	for range a.bases {
		if err = a.call(ctx, base, http.MethodGet, "/v1/nodes", "", nil, &answer); err == nil {
			u, _ := url.Parse(base) // newAPI has parsed it
			return answer.Nodes, u.Hostname(), nil
		}
		base = a.after(base)
	}
	return nil, "", err
}

// pushBody is the body of POST /v1/push.
type pushBody struct {
	User  string   `json:"user,omitempty"`
	Users []string `json:"users,omitempty"`
	Kept  *bool    `json:"kept,omitempty"`
	Body  message  `json:"body"`
}

// message is what is pushed. N is its number; the run and it come first, so
// that they are found without looking at the rest.
type message struct {
	Run string `json:"verify"`
	N   uint64 `json:"n"`
	Pad string `json:"pad,omitempty"`
}

// messageHead is what every message of a run begins with.
func messageHead(run string) []byte {
	return fmt.Appendf(nil, `{"verify":%q,"n":`, run)
}

// numberOf is a message's number.
func numberOf(head, body []byte) (uint64, error) {
	rest, ok := bytes.CutPrefix(body, head)
	end := bytes.IndexAny(rest, ",}")
	if !ok || end < 0 {
		return 0, fmt.Errorf("a message that this run has not pushed: %.100q", body)
	}
	return strconv.ParseUint(string(rest[:end]), 10, 64)
}

// pushed is what an accepted push is answered for one user.
type pushed struct {
	ID        string `json:"id"`
	User      string `json:"user"`
	Duplicate bool   `json:"duplicate"`
}

func (p pushed) id() uint64 {
	id, err := strconv.ParseUint(p.ID, 10, 64)
	if err != nil {
		return 0 // which the judge objects to
	}
	return id
}

// push pushes; the results are those of each user.
func (a *api) push(ctx context.Context, base string, p *pushBody, key string) ([]pushed, error) {
	var answer struct {
		pushed
		Results []pushed `json:"results"`
	}
	if err := a.call(ctx, base, http.MethodPost, "/v1/push", key, p, &answer); err != nil {
		return nil, err
	}
	if p.User != "" {
		return []pushed{answer.pushed}, nil
	}
	return answer.Results, nil
}
