package pushapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"imgo/clients/go/pushapi"
)

// request is a call as the server received it.
type request struct {
	method, path, key, idempotency, body string
}

// server answers every call with the same status and body, and records the calls.
func server(t *testing.T, status int, answer string) (*httptest.Server, *[]request) {
	t.Helper()
	var got []request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, request{r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key"), string(body)})
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s, &got
}

func client(t *testing.T, cfg pushapi.Config) *pushapi.Client {
	t.Helper()
	c, err := pushapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNew(t *testing.T) {
	for _, servers := range [][]string{nil, {""}, {"ftp://host"}, {"http://"}, {"host:1", "://"}} {
		if _, err := pushapi.New(pushapi.Config{Servers: servers}); err == nil {
			t.Errorf("%q was taken", servers)
		}
	}
	c := client(t, pushapi.Config{Servers: []string{"host:1", "http://host:1/", "https://other"}})
	if got := strings.Join(c.Servers(), " "); got != "http://host:1 https://other" {
		t.Errorf("the servers are %s", got)
	}
}

func TestPush(t *testing.T) {
	s, got := server(t, http.StatusAccepted, `{"id":"18446744073709551615","user":"1","sessions":2,"duplicate":true}`)
	c := client(t, pushapi.Config{Servers: []string{s.URL}, Key: "secret"})
	results, err := c.Push(t.Context(), c.Next(), &pushapi.Push{User: "1", Body: json.RawMessage(`{"a":1}`), IdempotencyKey: "k"})
	if err != nil || len(results) != 1 || results[0] != (pushapi.Result{ID: 1<<64 - 1, User: "1", Sessions: 2, Duplicate: true}) {
		t.Fatalf("%+v, %v", results, err)
	}
	if want := (request{"POST", "/v1/push", "Bearer secret", "k", `{"user":"1","body":{"a":1}}`}); (*got)[0] != want {
		t.Errorf("the server got %+v", (*got)[0])
	}
	s, _ = server(t, http.StatusAccepted, `{"results":[{"id":"1","user":"a"},{"id":"2","user":"b"}],"sessions":0}`)
	c = client(t, pushapi.Config{Servers: []string{s.URL}})
	if results, err = c.Push(t.Context(), c.Next(), &pushapi.Push{Users: []string{"a", "b"}}); err != nil || len(results) != 2 ||
		results[1].ID != 2 {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		status int
		answer string
		final  bool
		says   string
	}{
		{400, `{"error":{"code":"invalid","message":"user must not be empty","field":"user"}}`, true, "user must not be empty (invalid)"},
		{401, `{"error":{"code":"unauthorized","message":"no key"}}`, true, "is the API key right?"},
		{429, `{"error":{"code":"rate_limited","message":"too often"}}`, false, "rate_limited"},
		{503, `<html>`, false, "answered 503: <html>"},
		{302, ``, false, "answered 302"},
		{200, `not JSON`, false, "not JSON"},
	} {
		s, _ := server(t, test.status, test.answer)
		c := client(t, pushapi.Config{Servers: []string{s.URL}})
		var result any
		err := c.Call(t.Context(), c.Next(), http.MethodGet, "/v1/x", nil, nil, &result)
		var answer *pushapi.Error
		if !errors.As(err, &answer) || answer.Final() != test.final || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%d %s: %v", test.status, test.answer, err)
		}
	}
	s, _ := server(t, 200, strings.Repeat("x", 100))
	c := client(t, pushapi.Config{Servers: []string{s.URL}, MaxAnswer: 99})
	if err := c.Call(t.Context(), s.URL, http.MethodGet, "/", nil, nil, new(any)); err == nil ||
		!strings.Contains(err.Error(), "larger than 99") {
		t.Errorf("a large answer: %v", err)
	}
}

func TestServersThatDoNotAnswer(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s, got := server(t, 200, `{"token":"t"}`)
	c := client(t, pushapi.Config{Servers: []string{gone.URL, s.URL}, Timeout: time.Minute})
	for range 4 {
		if token, err := c.NewToken(t.Context(), "u", time.Hour); err != nil || token != "t" {
			t.Fatalf("%q, %v", token, err)
		}
	}
	if n := len(*got); n != 4 {
		t.Errorf("the server was called %d times", n)
	}
	err := c.Call(t.Context(), gone.URL, http.MethodGet, "/", nil, nil, nil)
	if !pushapi.NotSent(err) {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Anywhere(ctx, http.MethodGet, "/", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

func TestUserAndNodes(t *testing.T) {
	s, got := server(t, 200, `{"pending":3,"nodes":[{"name":"n","clients":{"tcp":"h:1"}}]}`)
	c := client(t, pushapi.Config{Servers: []string{s.URL}})
	if u, err := c.User(t.Context(), "a/b"); err != nil || u.Pending != 3 || (*got)[0].path != "/v1/users/a%2Fb" {
		t.Errorf("%+v, %v, %s", u, err, (*got)[0].path)
	}
	nodes, host, err := c.Nodes(t.Context())
	if err != nil || host != "127.0.0.1" || len(nodes) != 1 || nodes[0].Clients["tcp"] != "h:1" {
		t.Errorf("%+v, %s, %v", nodes, host, err)
	}
	if err := c.RevokeToken(t.Context(), "t", true); err != nil || (*got)[2].body != `{"close":true,"token":"t"}` {
		t.Errorf("%v, %+v", err, (*got)[2])
	}
}
