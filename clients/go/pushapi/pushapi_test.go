package pushapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"imgo/clients/go/pushapi"
)

// request is a call as the server received it.
type request struct {
	method, path, key, body string
}

// server answers every call with the same status and body, and records the calls.
func server(t *testing.T, status int, answer string) (*httptest.Server, *[]request) {
	t.Helper()
	var got []request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, request{r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), string(body)})
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
	results, err := c.PushTo(t.Context(), c.Next(), &pushapi.Push{User: "1", Body: json.RawMessage(`{"a":1}`), IdempotencyKey: "k",
		Ref: "order", Report: pushapi.ReportEach, Deadline: "30s", DeadlineIf: pushapi.DeadlineIfAny})
	if err != nil || len(results) != 1 || results[0] != (pushapi.Result{ID: 1<<64 - 1, User: "1", Sessions: 2, Duplicate: true}) {
		t.Fatalf("%+v, %v", results, err)
	}
	if want := (request{"POST", "/v1/push", "Bearer secret", `{"user":"1","body":{"a":1},"idempotency_key":"k","ref":"order",` +
		`"report":"each","deadline":"30s","deadline_if":"any"}`}); (*got)[0] != want {
		t.Errorf("the server got %+v", (*got)[0])
	}
	s, _ = server(t, http.StatusAccepted, `{"results":[{"id":"1","user":"a"},{"id":"2","user":"b"}],"sessions":0}`)
	c = client(t, pushapi.Config{Servers: []string{s.URL}})
	if results, err = c.Push(t.Context(), &pushapi.Push{Users: []string{"a", "b"}}); err != nil || len(results) != 2 ||
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
		err := c.Call(t.Context(), c.Next(), http.MethodGet, "/v1/x", nil, &result)
		var answer *pushapi.Error
		if !errors.As(err, &answer) || answer.Final() != test.final || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%d %s: %v", test.status, test.answer, err)
		}
	}
	s, _ := server(t, 200, strings.Repeat("x", 100))
	c := client(t, pushapi.Config{Servers: []string{s.URL}, MaxAnswer: 99})
	if err := c.Call(t.Context(), s.URL, http.MethodGet, "/", nil, new(any)); err == nil ||
		!strings.Contains(err.Error(), "larger than 99") {
		t.Errorf("a large answer: %v", err)
	}
}

func TestServersThatDoNotAnswer(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s, got := server(t, 200, `{"token":"t","user":"u","expires_ms":7}`)
	c := client(t, pushapi.Config{Servers: []string{gone.URL, s.URL}, Timeout: time.Minute})
	for range 4 {
		token, err := c.NewToken(t.Context(), "u", pushapi.TokenOptions{TTL: time.Hour, Rooms: []string{"a*"}})
		if err != nil || token != (pushapi.Token{Token: "t", User: "u", ExpiresMS: 7}) {
			t.Fatalf("%+v, %v", token, err)
		}
	}
	if n := len(*got); n != 4 || (*got)[0].body != `{"user":"u","ttl":"1h0m0s","rooms":["a*"]}` {
		t.Errorf("the server was called %d times: %+v", n, *got)
	}
	err := c.Call(t.Context(), gone.URL, http.MethodGet, "/", nil, nil)
	if !pushapi.NotSent(err) {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.User(ctx, "u"); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// TestRefusedCertificate checks that a call is repeated at another server if the handshake of TLS fails.
func TestRefusedCertificate(t *testing.T) {
	unknown := httptest.NewUnstartedServer(http.NotFoundHandler())
	unknown.Config.ErrorLog = log.New(io.Discard, "", 0)
	unknown.StartTLS()
	defer unknown.Close()
	s, got := server(t, 202, `{"id":"1"}`)
	c := client(t, pushapi.Config{Servers: []string{unknown.URL, s.URL}, Timeout: time.Minute})
	for range 2 {
		if _, err := c.Push(t.Context(), &pushapi.Push{User: "u", Body: json.RawMessage("1")}); err != nil {
			t.Fatal(err)
		}
	}
	if len(*got) != 2 {
		t.Errorf("the server was called %d times, want 2", len(*got))
	}
}

// TestRepetition checks that a call that may have had its effect is repeated only if it cannot act twice.
func TestRepetition(t *testing.T) {
	body := json.RawMessage("1")
	for name, test := range map[string]struct {
		call  func(c *pushapi.Client) error
		calls int
	}{
		"push without a key": {func(c *pushapi.Client) error {
			_, err := c.Push(t.Context(), &pushapi.Push{User: "u", Body: body})
			return err
		}, 1},
		"push with a key": {func(c *pushapi.Client) error {
			_, err := c.Push(t.Context(), &pushapi.Push{User: "u", Body: body, IdempotencyKey: "k"})
			return err
		}, 3},
		"batch with one key": {func(c *pushapi.Client) error {
			_, err := c.PushBatch(t.Context(), []*pushapi.Push{{User: "u", Body: body, IdempotencyKey: "k"}, {User: "u", Body: body}})
			return err
		}, 1},
		"batch with keys": {func(c *pushapi.Client) error {
			_, err := c.PushBatch(t.Context(), []*pushapi.Push{{User: "u", Body: body, IdempotencyKey: "k"}})
			return err
		}, 3},
		"user":       {func(c *pushapi.Client) error { _, err := c.User(t.Context(), "u"); return err }, 3},
		"membership": {func(c *pushapi.Client) error { _, err := c.AddToRoom(t.Context(), "r", "u"); return err }, 3},
		"token": {func(c *pushapi.Client) error {
			_, err := c.NewToken(t.Context(), "u", pushapi.TokenOptions{})
			return err
		}, 1},
		"read": {func(c *pushapi.Client) error {
			_, err := c.Read(t.Context(), "u", pushapi.Reading{UpTo: 1})
			return err
		}, 3},
		"kick": {func(c *pushapi.Client) error { _, err := c.Kick(t.Context(), "u", pushapi.KickOptions{}); return err }, 1},
	} {
		s, got := server(t, http.StatusServiceUnavailable, `{"error":{"code":"unavailable","message":"later"}}`)
		var answer *pushapi.Error
		err := test.call(client(t, pushapi.Config{Servers: []string{s.URL}}))
		if !errors.As(err, &answer) || answer.Code != "unavailable" || answer.Status != 503 || answer.Message != "later" ||
			len(*got) != test.calls {
			t.Errorf("%s: %d calls, %v; want %d", name, len(*got), err, test.calls)
		}
	}
}

func TestBatch(t *testing.T) {
	s, got := server(t, 200, `{"results":[{"status":202,"id":"7","user":"a","sessions":1,"duplicate":false},`+
		`{"status":202,"results":[{"id":"8","user":"b","sessions":0,"duplicate":false}],"sessions":0},`+
		`{"status":400,"error":{"code":"invalid","message":"ttl is no duration","field":"ttl"}},{"status":202,"sessions":null}]}`)
	c := client(t, pushapi.Config{Servers: []string{s.URL}})
	no := false
	results, err := c.PushBatch(t.Context(), []*pushapi.Push{{User: "a", BodyText: "x"}, {Users: []string{"b"}, BodyBase64: "AA=="},
		{User: "c", TTL: "soon"}, {Room: "r", Body: 1, Kept: &no, Op: 1000}})
	if err != nil || len(results) != 4 {
		t.Fatalf("%+v, %v", results, err)
	}
	var refused *pushapi.Error
	if results[0].Results[0].ID != 7 || results[1].Results[0].User != "b" || !errors.As(results[2].Err, &refused) || refused.Field != "ttl" ||
		results[2].Results != nil || results[3].Err != nil || len(results[3].Results) != 1 {
		t.Errorf("%+v", results)
	}
	want := `{"pushes":[{"user":"a","body_text":"x"},{"users":["b"],"body_base64":"AA=="},{"user":"c","ttl":"soon"},` +
		`{"room":"r","kept":false,"body":1,"op":1000}]}`
	if (*got)[0].body != want {
		t.Errorf("sent %s", (*got)[0].body)
	}
	if _, err := c.PushBatch(t.Context(), []*pushapi.Push{{User: "a"}}); err == nil {
		t.Error("four results for one push are taken")
	}
}

func TestUsersRoomsAndNodes(t *testing.T) {
	s, got := server(t, 200, `{"pending":3,"oldest_id":"18446744073709551615","newest_id":"0","revoked":2,"sessions":null,`+
		`"nodes":[{"name":"n","clients":{"tcp":"h:1"}}]}`)
	c := client(t, pushapi.Config{Servers: []string{s.URL}})
	u, err := c.User(t.Context(), "a/b c")
	if err != nil || u.Pending != 3 || u.OldestID != 1<<64-1 || (*got)[0].path != "/v1/user?user=a%2Fb+c" {
		t.Errorf("%+v, %v, %s", u, err, (*got)[0].path)
	}
	nodes, host, err := c.Nodes(t.Context())
	if err != nil || host != "127.0.0.1" || len(nodes) != 1 || nodes[0].Clients["tcp"] != "h:1" {
		t.Errorf("%+v, %s, %v", nodes, host, err)
	}
	if err := c.RevokeToken(t.Context(), "t", true); err != nil || (*got)[2].body != `{"close":true,"token":"t"}` {
		t.Errorf("%v, %+v", err, (*got)[2])
	}
	if n, err := c.RevokeTokens(t.Context(), "u", false); err != nil || n != 2 || (*got)[3].body != `{"close":false,"user":"u"}` {
		t.Errorf("%d, %v, %+v", n, err, (*got)[3])
	}
	removal := request{"DELETE", "/v1/memberships?room=live%3A%2F%2F1&user=u", "", ""}
	if _, err := c.RemoveFromRoom(t.Context(), "live://1", "u"); err != nil || (*got)[4] != removal {
		t.Errorf("%v, %+v", err, (*got)[4])
	}
	if _, err := c.Room(t.Context(), "r", 0); err != nil || (*got)[5].path != "/v1/room?limit=0&room=r" {
		t.Errorf("%v, %+v", err, (*got)[5])
	}
	if _, err := c.Kick(t.Context(), "a/b", pushapi.KickOptions{Device: "d", Code: 3001}); err != nil ||
		(*got)[6] != (request{"POST", "/v1/user/kick?user=a%2Fb", "", `{"device":"d","code":3001}`}) {
		t.Errorf("%v, %+v", err, (*got)[6])
	}
	if n, err := c.Read(t.Context(), "a/b", pushapi.Reading{UpTo: 7, IDs: []uint64{1<<64 - 1}, Device: "d"}); err != nil || n != 0 ||
		(*got)[7] != (request{"POST", "/v1/user/read?user=a%2Fb", "", `{"up_to":"7","ids":["18446744073709551615"],"device":"d"}`}) {
		t.Errorf("%d, %v, %+v", n, err, (*got)[7])
	}
	if _, err := c.Kick(t.Context(), "..", pushapi.KickOptions{}); err != nil || (*got)[8].path != "/v1/user/kick?user=.." {
		t.Errorf("%v, %+v", err, (*got)[8])
	}
}

func TestClientAddress(t *testing.T) {
	n := pushapi.Node{Clients: map[string]string{
		"tcp": ":8080", "ws": "0.0.0.0:8090", "tls": "comet.example.com:8443", "wss": "wss://[::]:443/sub", "one": "one://10.0.0.1:1/",
	}}
	for transport, want := range map[string]string{
		"tcp": "tcp://api:8080", "ws": "ws://api:8090", "tls": "tls://comet.example.com:8443", "wss": "wss://api:443/sub",
		"one": "one://10.0.0.1:1", "none": "",
	} {
		if got := n.ClientAddress(transport, "api"); got != want {
			t.Errorf("%s: %q, want %q", transport, got, want)
		}
	}
}
