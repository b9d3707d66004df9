package soak

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
	"strconv"
	"time"
)

// callLimit bounds a call of the API.
const callLimit = 15 * time.Second

// api calls the server's HTTP API.
type api struct {
	base   string
	client *http.Client
}

func newAPI(address string, callers int) *api {
	return &api{base: "http://" + address, client: &http.Client{
		Timeout:   callLimit,
		Transport: &http.Transport{MaxIdleConnsPerHost: callers, IdleConnTimeout: 30 * time.Second},
	}}
}

func (a *api) close() { a.client.CloseIdleConnections() }

// statusError is an answer that is not a success.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("answer %d: %s", e.status, e.body) }

// final says that the caller is at fault: repeating would not help.
func (e *statusError) final() bool {
	return e.status >= 400 && e.status < 500 && e.status != http.StatusTooManyRequests
}

// unsent says that no byte of a request has left: nobody listened.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// call sends a request; into may be nil.
func (a *api) call(ctx context.Context, method, path, key string, body, into any) error {
	var send io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		send = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, send)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode >= 300 {
		return &statusError{resp.StatusCode, string(data[:min(len(data), 300)])}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read the answer %q: %w", data, err)
	}
	return nil
}

// pushBody is the body of POST /v1/push.
type pushBody struct {
	User  string   `json:"user,omitempty"`
	Users []string `json:"users,omitempty"`
	Room  string   `json:"room,omitempty"`
	All   bool     `json:"all,omitempty"`
	Kept  *bool    `json:"kept,omitempty"`
	Body  message  `json:"body"`
}

// message is what is pushed. N is its number; N comes first, so that it is
// found without looking at the rest.
type message struct {
	N   uint64 `json:"n"`
	Pad string `json:"pad,omitempty"`
}

// numberOf is a body's number.
func numberOf(body []byte) (uint64, error) {
	const head = `{"n":`
	rest, ok := bytes.CutPrefix(body, []byte(head))
	end := bytes.IndexAny(rest, ",}")
	if !ok || end < 0 {
		return 0, fmt.Errorf("body %.100q has no number", body)
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
func (a *api) push(ctx context.Context, p *pushBody, key string) ([]pushed, error) {
	var answer struct {
		pushed
		Results []pushed `json:"results"`
	}
	if err := a.call(ctx, http.MethodPost, "/v1/push", key, p, &answer); err != nil {
		return nil, err
	}
	if p.User != "" {
		return []pushed{answer.pushed}, nil
	}
	return answer.Results, nil
}

func (a *api) token(ctx context.Context, user string) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	err := a.call(ctx, http.MethodPost, "/v1/tokens", "", map[string]any{"user": user, "ttl": "1h"}, &answer)
	if err == nil && answer.Token == "" {
		err = errors.New("the answer has no token")
	}
	if err != nil {
		return "", fmt.Errorf("make a token for %s: %w", user, err)
	}
	return answer.Token, nil
}

// userState is what the server says of a user.
type userState struct {
	Sessions []struct {
		Device string `json:"device"`
	} `json:"sessions"`
	Devices []struct {
		Device  string `json:"device"`
		Pending int    `json:"pending"`
	} `json:"devices"`
	Pending  int    `json:"pending"`
	OldestID string `json:"oldest_id"`
	NewestID string `json:"newest_id"`
	Dropped  int    `json:"dropped"`
}

func (a *api) user(ctx context.Context, user string) (userState, error) {
	var s userState
	if err := a.call(ctx, http.MethodGet, "/v1/users/"+url.PathEscape(user), "", nil, &s); err != nil {
		return s, fmt.Errorf("look at user %s: %w", user, err)
	}
	return s, nil
}
