package httpapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

func TestPushCommands(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		want       logic.PushCommand
	}{
		{"user, kept by default", `{"user":"alice","body":{"test": 1}}`,
			logic.PushCommand{Users: []string{"alice"}, Op: 5, Body: []byte(`{"test": 1}`), Kept: true}},
		{"users", `{"users":["a","b","a"],"body":[1, 2]}`,
			logic.PushCommand{Users: []string{"a", "b", "a"}, Op: 5, Body: []byte(`[1, 2]`), Kept: true}},
		{"not kept", `{"user":"alice","body":null,"kept":false}`,
			logic.PushCommand{Users: []string{"alice"}, Op: 5, Body: []byte(`null`)}},
		{"keys", `{"keys":["k1","k2"],"body":"x","kept":false}`,
			logic.PushCommand{Keys: []string{"k1", "k2"}, Op: 5, Body: []byte(`"x"`)}},
		{"keys of a user", `{"user":"alice","keys":["k1"],"body":"x"}`,
			logic.PushCommand{KeyUser: "alice", Keys: []string{"k1"}, Op: 5, Body: []byte(`"x"`)}},
		{"keys of a user, in the other order", `{"keys":["k1"],"user":"alice","body":"x"}`,
			logic.PushCommand{KeyUser: "alice", Keys: []string{"k1"}, Op: 5, Body: []byte(`"x"`)}},
		{"room", `{"room":"live://1","body":1.50}`, logic.PushCommand{Room: "live://1", Op: 5, Body: []byte(`1.50`)}},
		{"all", `{"all":true,"body":true}`, logic.PushCommand{All: true, Op: 5, Body: []byte(`true`)}},
		{"text", `{"user":"ä€😀","body_text":"a\tb\u00e9"}`,
			logic.PushCommand{Users: []string{"ä€😀"}, Op: 5, Body: []byte("a\tbé"), Kept: true}},
		{"empty text", `{"user":"a","body_text":""}`, logic.PushCommand{Users: []string{"a"}, Op: 5, Body: []byte{}, Kept: true}},
		{"bytes", `{"user":"a","body_base64":"AAH/"}`,
			logic.PushCommand{Users: []string{"a"}, Op: 5, Body: []byte{0, 1, 255}, Kept: true}},
		{"operation", `{"user":"a","op":1000,"body":1}`, logic.PushCommand{Users: []string{"a"}, Op: 1000, Body: []byte(`1`), Kept: true}},
		{"ttl as text", `{"user":"a","ttl":"1h30m","body":1}`,
			logic.PushCommand{Users: []string{"a"}, Op: 5, Body: []byte(`1`), Kept: true, TTL: 90 * time.Minute}},
		{"ttl in seconds", `{"user":"a","ttl":1.5,"body":1}`,
			logic.PushCommand{Users: []string{"a"}, Op: 5, Body: []byte(`1`), Kept: true, TTL: 1500 * time.Millisecond}},
		{"idempotency key", `{"user":"a","idempotency_key":"k","body":1}`,
			logic.PushCommand{Users: []string{"a"}, Op: 5, Body: []byte(`1`), Kept: true, IdempotencyKey: "/k"}},
		{"white space", " \r\n\t{ \"user\" : \"a\" , \"body\" :  { \"x\" : [ ] }  } \n",
			logic.PushCommand{Users: []string{"a"}, Op: 5, Body: []byte(`{ "x" : [ ] }`), Kept: true}},
		{"names twice inside the message", `{"user":"a","body":{"x":1,"x":2}}`,
			logic.PushCommand{Users: []string{"a"}, Op: 5, Body: []byte(`{"x":1,"x":2}`), Kept: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{}, nil)
			if a := h.do("POST", "/v1/push", tt.body); a.status != 202 {
				t.Fatalf("answered %d: %s", a.status, a.body)
			}
			if got := h.service.lastPush(); !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("pushed %+v, want %+v", *got, tt.want)
			}
		})
	}
}

func TestPushAnswers(t *testing.T) {
	service := &fakeService{}
	h := newHarness(t, httpapi.Config{}, service)
	for _, tt := range []struct {
		name, body string
		result     logic.PushResult
		want       string
	}{
		{"one", `{"user":"al\"ice","body":1}`,
			logic.PushResult{Users: []logic.UserResult{{User: `al"ice`, ID: 1 << 60, Sessions: 2}}, Sessions: 2},
			`{"id":"1152921504606846976","user":"al\"ice","sessions":2,"duplicate":false}`},
		{"one again", `{"user":"a","body":1,"idempotency_key":"k"}`,
			logic.PushResult{Users: []logic.UserResult{{User: "a", ID: 7, Duplicate: true}}, Duplicate: true},
			`{"id":"7","user":"a","sessions":0,"duplicate":true}`},
		{"one, not kept, away", `{"user":"a","body":1,"kept":false}`,
			logic.PushResult{Users: []logic.UserResult{{User: "a"}}},
			`{"id":"0","user":"a","sessions":0,"duplicate":false}`},
		{"many", `{"users":["a","b"],"body":1}`,
			logic.PushResult{Users: []logic.UserResult{{User: "a", ID: 7, Sessions: 1}, {User: "b", ID: 9, Duplicate: true}}, Sessions: 1},
			`{"results":[{"id":"7","user":"a","sessions":1,"duplicate":false},{"id":"9","user":"b","sessions":0,"duplicate":true}],"sessions":1}`},
		{"room", `{"room":"r","body":1}`, logic.PushResult{}, `{"sessions":null}`},
		{"keys", `{"keys":["k"],"body":1}`, logic.PushResult{Sessions: 12}, `{"sessions":12}`},
		{"all again", `{"all":true,"body":1,"idempotency_key":"k"}`, logic.PushResult{Duplicate: true}, `{"sessions":null,"duplicate":true}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			service.push = func(context.Context, *logic.PushCommand) (*logic.PushResult, error) { return &tt.result, nil }
			a := h.do("POST", "/v1/push", tt.body)
			if a.status != 202 || a.body != tt.want+"\n" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("answered %d, %s\n%swant\n%s", a.status, a.header.Get("Content-Type"), a.body, tt.want)
			}
		})
	}
}

// TestPushBadInput checks that bad input is refused with an error that names the field, and that
// nothing is pushed.
func TestPushBadInput(t *testing.T) {
	long := strings.Repeat("x", 129)
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, tt := range []struct {
		name, body, field, message string
	}{
		{"nothing", "", "", "has no body"},
		{"no JSON", "hello", "", "not valid JSON"},
		{"cut short", `{"user":"a","body":{"x":`, "body", "ends early"},
		{"cut short at the top", `{"user":"a"`, "", "ends early"},
		{"an array", `[]`, "", "must be a JSON object, not an array"},
		{"null", `null`, "", "must be a JSON object, not null"},
		{"more after it", `{"user":"a","body":1}{}`, "", "more after its JSON value"},
		{"garbage after it", `{"user":"a","body":1}xx`, "", "not valid JSON"},
		{"unknown field", `{"user":"a","body":1,"boddy":2}`, "boddy", "not a field"},
		{"case matters", `{"User":"a","body":1}`, "User", "not a field"},
		{"field twice", `{"user":"a","body":1,"user":"b"}`, "user", "twice"},
		{"two targets", `{"user":"a","room":"r","body":1}`, "room", "beside user"},
		{"all and users", `{"all":true,"users":["a"],"body":1}`, "users", "beside all"},
		{"no target", `{"body":1}`, "user", "missing"},
		{"no message", `{"user":"a"}`, "body", "missing"},
		{"two messages", `{"user":"a","body":1,"body_text":"x"}`, "body_text", "beside body"},
		{"user is a number", `{"user":123,"body":1}`, "user", "must be a string, not a number"},
		{"user is null", `{"user":null,"body":1}`, "user", "must be a string, not null"},
		{"empty user", `{"user":"","body":1}`, "user", "must not be empty"},
		{"long user", `{"user":"` + long + `","body":1}`, "user", "129 bytes"},
		{"control in user", `{"user":"a\u0007","body":1}`, "user", "control character"},
		{"users is a string", `{"users":"a,b","body":1}`, "users", "must be an array of strings, not a string"},
		{"number in users", `{"users":["a","b",3],"body":1}`, "users[2]", "must be a string, not a number"},
		{"no users", `{"users":[],"body":1}`, "users", "must not be empty"},
		{"no keys", `{"keys":[],"body":1}`, "keys", "must not be empty"},
		{"keys of nobody", `{"user":"","keys":["k"],"body":1}`, "user", "must not be empty"},
		{"no keys of a user", `{"user":"a","keys":[],"body":1}`, "keys", "must not be empty"},
		{"keys of users", `{"users":["a"],"keys":["k"],"body":1}`, "keys", "beside users"},
		{"keys of a user and a room", `{"user":"a","keys":["k"],"room":"r","body":1}`, "room", "beside keys"},
		{"too many users", `{"users":["a","b","c","d"],"body":1}`, "users", "more than 3"},
		{"empty room", `{"room":"","body":1}`, "room", "must not be empty"},
		{"all is a string", `{"all":"yes","body":1}`, "all", "must be true or false, not a string"},
		{"all is false", `{"all":false,"body":1}`, "all", "can only be true"},
		{"all is false beside a user", `{"all":false,"user":"a","body":1}`, "all", "can only be true"},
		{"kept room", `{"room":"r","kept":true,"body":1}`, "kept", "cannot be true with room"},
		{"kept all", `{"all":true,"kept":true,"body":1}`, "kept", "cannot be true with all"},
		{"kept keys", `{"keys":["k"],"kept":true,"body":1}`, "kept", "cannot be true with keys"},
		{"kept is a number", `{"user":"a","kept":1,"body":1}`, "kept", "must be true or false, not a number"},
		{"ttl without kept", `{"user":"a","kept":false,"ttl":"1h","body":1}`, "ttl", "only for a push that is kept"},
		{"ttl nonsense", `{"user":"a","ttl":"tomorrow","body":1}`, "ttl", "is not a duration"},
		{"ttl zero", `{"user":"a","ttl":0,"body":1}`, "ttl", "at least a millisecond"},
		{"ttl negative", `{"user":"a","ttl":"-1s","body":1}`, "ttl", "must not be negative"},
		{"ttl huge", `{"user":"a","ttl":1e300,"body":1}`, "ttl", "more seconds"},
		{"ttl is an object", `{"user":"a","ttl":{},"body":1}`, "ttl", "not an object"},
		{"op is a string", `{"user":"a","op":"5","body":1}`, "op", "must be a whole number, not a string"},
		{"op is no whole number", `{"user":"a","op":5.5,"body":1}`, "op", "whole number"},
		{"op overflows", `{"user":"a","op":5000000000,"body":1}`, "op", "whole number from"},
		{"text is an object", `{"user":"a","body_text":{}}`, "body_text", "must be a string, not an object"},
		{"base64 nonsense", `{"user":"a","body_base64":"&&"}`, "body_base64", "not base64"},
		{"base64 without padding", `{"user":"a","body_base64":"AA"}`, "body_base64", "not base64"},
		{"idempotency key empty", `{"user":"a","idempotency_key":"","body":1}`, "idempotency_key", "must not be empty"},
		{"idempotency key long", `{"user":"a","idempotency_key":"` + long + `","body":1}`, "idempotency_key", "129 bytes"},
		{"invalid UTF-8 in user", "{\"user\":\"a\xff\",\"body\":1}", "user", "invalid UTF-8"},
		{"invalid UTF-8 in the message", "{\"user\":\"a\",\"body\":\"\xc3\x28\"}", "body", "invalid UTF-8"},
		{"lone surrogate", `{"user":"\ud800","body":1}`, "user", "surrogate"},
		{"bad number", `{"user":"a","body":01}`, "", "not valid JSON"},
		{"bad word", `{"user":"a","body":nope}`, "body", "not valid JSON"},
		{"1,001 deep", `{"user":"a","body":` + deep(1001) + `}`, "body", "nested more than 1000 deep"},
		{"10,000 deep", `{"user":"a","body":` + deep(10_000) + `}`, "body", "nested more than 1000 deep"},
		{"10,000 deep objects", `{"user":"a","body":` + strings.Repeat(`{"x":`, 10_000) + "1" + strings.Repeat("}", 10_000) + `}`, "body",
			"nested more than 1000 deep"},
		{"10,000 deep without an end", `{"user":"a","body":` + strings.Repeat("[", 10_000), "body", "nested more than 1000 deep"},
		{"10,000 deep where a name should be", `{"user":` + deep(10_000) + `}`, "user", "must be a string, not an array"},
		{"10,000 deep at the top", deep(10_000), "", "must be a JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{MaxUsers: 3}, nil)
			a := h.do("POST", "/v1/push", tt.body)
			code, field, message := a.problem(t)
			if a.status != 400 || code != "invalid" || field != tt.field || !strings.Contains(message, tt.message) {
				t.Errorf("answered %d %s %q: %q\nwant field %q and a message with %q", a.status, code, field, message, tt.field, tt.message)
			}
			if calls := h.service.recorded(); len(calls) > 0 {
				t.Errorf("a refused push has done %q", calls)
			}
		})
	}
}

func TestPushDepthIsFine(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	for _, body := range []string{
		strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
		`"` + strings.Repeat("[", 5000) + `"`,
		`"\"` + strings.Repeat("{", 5000) + `"`,
		"[" + strings.Repeat("[],", 5000) + "[]]",
	} {
		a := h.do("POST", "/v1/push", `{"user":"a","body" : `+body+`,"op":5}`)
		if a.status != 202 || string(h.service.lastPush().Body) != body {
			t.Errorf("answered %d: %s", a.status, a.body)
		}
	}
}

func TestPushManyUsers(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"body":{"big":"news"},"users":[`)
	for i := range 100_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"user-%d"`, i)
	}
	b.WriteString(`]}`)
	service := &fakeService{}
	h := newHarness(t, httpapi.Config{}, service)
	a := h.doUnchecked("POST", "/v1/push", b.String())
	if a.status != 202 {
		t.Fatalf("answered %d: %.300s", a.status, a.body)
	}
	if n := len(service.lastPush().Users); n != 100_000 {
		t.Errorf("pushed to %d users", n)
	}
	var reply struct {
		Results []struct{ ID, User string }
	}
	if err := json.Unmarshal([]byte(a.body), &reply); err != nil || len(reply.Results) != 100_000 ||
		reply.Results[99_999].User != "user-99999" {
		t.Errorf("the answer has %d results, error %v", len(reply.Results), err)
	}
}

func TestPushIdempotencyKey(t *testing.T) {
	keys := []httpapi.Key{{Name: "one", Key: "k1"}, {Name: "two", Key: "k2"}}
	for _, tt := range []struct {
		name, body string
		headers    []string
		want       string
		field      string
		status     int // if field is not empty
	}{
		{"header", `{"user":"a","body":1}`, []string{"X-API-Key: k1", "Idempotency-Key: x"}, "one/x", "", 0},
		{"body", `{"user":"a","body":1,"idempotency_key":"x"}`, []string{"X-API-Key: k2"}, "two/x", "", 0},
		{"both the same", `{"user":"a","body":1,"idempotency_key":"x"}`, []string{"X-API-Key: k2", "Idempotency-Key: x"}, "two/x", "", 0},
		{"both differ", `{"user":"a","body":1,"idempotency_key":"x"}`, []string{"X-API-Key: k2", "Idempotency-Key: y"}, "", "idempotency_key",
			409},
		{"header too long", `{"user":"a","body":1}`, []string{"X-API-Key: k1", "Idempotency-Key: " + strings.Repeat("x", 129)}, "",
			"Idempotency-Key", 400},
		{"empty header", `{"user":"a","body":1}`, []string{"X-API-Key: k1", "Idempotency-Key: "}, "", "Idempotency-Key", 400},
		{"none", `{"user":"a","body":1}`, []string{"X-API-Key: k1"}, "", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{Keys: keys}, nil)
			a := h.do("POST", "/v1/push", tt.body, tt.headers...)
			if tt.field != "" {
				if _, field, _ := a.problem(t); a.status != tt.status || field != tt.field {
					t.Errorf("answered %d: %s", a.status, a.body)
				}
				return
			}
			if a.status != 202 || h.service.lastPush().IdempotencyKey != tt.want {
				t.Errorf("answered %d, pushed with the key %q", a.status, h.service.lastPush().IdempotencyKey)
			}
		})
	}
}

// TestPushErrors checks that the caller gets the errors of the service, with the field names that the
// caller used.
func TestPushErrors(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		code   string
		field  string
		retry  string
	}{
		{envelope.Invalid("users[0]", "is bad"), 400, "invalid", "user", ""},
		{envelope.Invalid("op", "is bad"), 400, "invalid", "op", ""},
		{&envelope.Error{Code: envelope.CodeTooLarge, Field: "body", Message: "is too large"}, 413, "too_large", "body", ""},
		{fmt.Errorf("append to the log: %w", envelope.ErrDiskFull), 507, "disk_full", "", ""},
		{fmt.Errorf("ask the owner: %w", envelope.ErrUnavailable), 503, "unavailable", "", "1"},
		{envelope.ErrNotReady, 503, "unavailable", "", "1"},
		{envelope.ErrClosed, 503, "unavailable", "", "1"},
		{envelope.ErrTooMany, 429, "too_many", "", "1"},
		{envelope.ErrRateLimited, 429, "rate_limited", "", "1"},
		{envelope.ErrNotFound, 404, "not_found", "", ""},
		{envelope.ErrOutOfRange, 500, "internal", "", ""},
		{fmt.Errorf("read /secret/path: %w", envelope.ErrInternal), 500, "internal", "", ""},
		{fmt.Errorf("read /secret/path: permission denied"), 500, "internal", "", ""},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			h := newHarness(t, httpapi.Config{}, &fakeService{err: tt.err})
			a := h.do("POST", "/v1/push", `{"user":"a","body":1}`)
			code, field, message := a.problem(t)
			if a.status != tt.status || code != tt.code || field != tt.field || a.header.Get("Retry-After") != tt.retry {
				t.Errorf("answered %d, Retry-After %q: %s", a.status, a.header.Get("Retry-After"), a.body)
			}
			if strings.Contains(message, "secret") {
				t.Errorf("the answer tells what is the server's: %s", message)
			}
			if logged := h.logged.String(); tt.status >= 500 != strings.Contains(logged, "an API request failed") {
				t.Errorf("logged %q", logged)
			}
		})
	}
}

func TestPushBase64RoundTrip(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	h := newHarness(t, httpapi.Config{}, nil)
	a := h.do("POST", "/v1/push", `{"user":"a","body_base64":"`+base64.StdEncoding.EncodeToString(all)+`"}`)
	if a.status != 202 || string(h.service.lastPush().Body) != string(all) {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
}

// BenchmarkPush measures the cost of a push in the API alone. The service does nothing.
func BenchmarkPush(b *testing.B) {
	service := &quietService{}
	cfg := withDefaults(httpapi.Config{Keys: []httpapi.Key{{Name: "backend", Key: "secret", Rate: 1e9}}})
	a, err := httpapi.New(cfg, service, zerolog.Nop(),
		prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	body := `{"user":"user-123456","body":{"text":"` + strings.Repeat("x", 150) + `"},"ttl":"24h"}`
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "http://127.0.0.1/v1/push", strings.NewReader(body))
		r.Header.Set("X-Api-Key", "secret")
		a.Handler().ServeHTTP(w, r)
	}
	if w.status != 202 {
		b.Fatal("answered", w.status)
	}
}

// quietService does not record its calls.
type quietService struct{ fakeService }

func (*quietService) Push(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
	return &logic.PushResult{Users: []logic.UserResult{{User: cmd.Users[0], ID: 1, Sessions: 1}}, Sessions: 1}, nil
}
