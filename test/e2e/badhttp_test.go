package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

// TestBadJSON sends requests with an invalid body. The response must name the wrong field, the
// field's counter must grow, and nothing must be pushed.
func TestBadJSON(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	for _, test := range []struct {
		name, body  string
		code, field string
		status      int
		label       string // label of the counter, if it is not the field
		message     string
	}{
		{"nothing", ``, "invalid", "", 400, "none", "no body"},
		{"an array", `[]`, "invalid", "", 400, "none", "must be a JSON object, not an array"},
		{"a string", `"x"`, "invalid", "", 400, "none", "not a string"},
		{"null", `null`, "invalid", "", 400, "none", "not null"},
		{"cut off", `{"user":"a","body":{"x":`, "invalid", "body", 400, "", "ends early"},
		{"two objects", `{"user":"a","body":1}{}`, "invalid", "", 400, "none", "more after its JSON value"},
		{"not JSON", `user=a&body=b`, "invalid", "", 400, "none", "not valid JSON"},
		{"user is a number", `{"user":5,"body":1}`, "invalid", "user", 400, "", "must be a string, not a number"},
		{"users is a string", `{"users":"a","body":1}`, "invalid", "users", 400, "", "must be an array of strings, not a string"},
		{"users has a null", `{"users":["a",null],"body":1}`, "invalid", "users[1]", 400, "users", "not null"},
		{"users is an object", `{"users":{"a":1},"body":1}`, "invalid", "users", 400, "", "not an object"},
		{"op is a string", `{"user":"a","body":1,"op":"5"}`, "invalid", "op", 400, "", "whole number"},
		{"op overflows", `{"user":"a","body":1,"op":2147483648}`, "invalid", "op", 400, "", "-2147483648 to 2147483647"},
		{"op is the protocol's", `{"user":"a","body":1,"op":8}`, "invalid", "op", 400, "", "1000 and above"},
		{"kept is a number", `{"user":"a","body":1,"kept":1}`, "invalid", "kept", 400, "", "true or false"},
		{"ttl is negative", `{"user":"a","body":1,"ttl":-5}`, "invalid", "ttl", 400, "", "at least a millisecond"},
		{"ttl is words", `{"user":"a","body":1,"ttl":"soon"}`, "invalid", "ttl", 400, "", "duration"},
		{"ttl is too long", `{"user":"a","body":1,"ttl":"100000h"}`, "invalid", "ttl", 400, "", "at most"},
		{"base64 that is none", `{"user":"a","body_base64":"%%%"}`, "invalid", "body_base64", 400, "", "not base64"},
		{"two bodies", `{"user":"a","body":1,"body_text":"x"}`, "invalid", "body_text", 400, "", "exactly one of"},
		{"two targets", `{"user":"a","room":"r","body":1}`, "invalid", "room", 400, "", "exactly one of"},
		{"no target", `{"body":1}`, "invalid", "user", 400, "", "is missing"},
		{"no body", `{"user":"a"}`, "invalid", "body", 400, "", "is missing"},
		{"an unknown field", `{"user":"a","body":1,"bdoy":2}`, "invalid", "bdoy", 400, "other", "not a field"},
		{"a field twice", `{"user":"a","user":"b","body":1}`, "invalid", "user", 400, "", "twice"},
		{"a body that is too large", `{"user":"a","body_text":"` + strings.Repeat("x", 64<<10+1) + `"}`, "too_large", "body", 413, "",
			"65537 bytes"},
		{"body 10,000 deep", `{"user":"a","body":` + deep + `}`, "invalid", "body", 400, "", "nested more than"},
		{"all 10,000 deep", deep, "invalid", "", 400, "none", "not an array"},
		{"objects 10,000 deep", strings.Repeat(`{"user":`, 10_000) + strings.Repeat(`}`, 10_000), "invalid", "user", 400, "", "not an object"},
		{"unknown field 10,000 deep", `{"x":` + deep + `}`, "invalid", "x", 400, "other", "not a field"},
	} {
		t.Run(test.name, func(t *testing.T) {
			label := test.label
			if label == "" {
				label = test.field
			}
			moved := n.grows(t, apiProblem(test.code, label))
			a := n.call(t, "POST", "/v1/push", test.body, "Content-Type: application/json")
			a.want(t, test.status, test.message)
			var p struct {
				Error struct{ Code, Message, Field string }
			}
			a.decode(t, &p)
			if p.Error.Code != test.code || p.Error.Field != test.field || p.Error.Message == "" {
				t.Errorf("answered %s, want code %s and field %q", a.body, test.code, test.field)
			}
			moved()
			w.fine(t)
		})
	}
	if s := n.user(t, "a"); s.Pending != 0 {
		t.Errorf("a message was kept: %+v", s)
	}
	// JSON of the greatest allowed depth is accepted and delivered unchanged.
	c := n.tcp(t)
	c.login("v2", "a", "")
	fine := strings.Repeat("[", 1000) + strings.Repeat("]", 1000)
	n.call(t, "POST", "/v1/push", `{"user":"a","body":`+fine+`}`).want(t, 202)
	c.expect(5, fine)
}

// endlessJSON is a request body of limit bytes. Its JSON does not end.
type endlessJSON struct {
	head  string
	taken atomic.Int64
	limit int64
}

func (m *endlessJSON) Read(p []byte) (int, error) {
	at := m.taken.Load()
	if at >= m.limit {
		return 0, io.EOF
	}
	k := 0
	if at < int64(len(m.head)) {
		k = copy(p, m.head[at:])
	}
	for i := k; i < len(p); i++ {
		p[i] = 'x'
	}
	m.taken.Add(int64(len(p)))
	return len(p), nil
}

// TestHundredMegabytes sends 100 MB from several callers at once. The server must refuse each
// request before half of it was sent, without using that much memory.
func TestHundredMegabytes(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	const size, callers = 100_000_000, 4
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	counted := n.metric(t, "imgo_logic_http_problems_total", `code="too_large"`)
	type result struct {
		answer
		taken int64
		err   error
	}
	results := make(chan result)
	for i := range callers {
		go func() {
			body := &endlessJSON{head: `{"user":"a","body":"`, limit: size}
			r, err := http.NewRequest("POST", n.base+"/v1/push", body)
			if err != nil {
				results <- result{err: err}
				return
			}
			if i%2 == 0 {
				r.ContentLength = size
			}
			var a answer
			response, err := n.http.Do(r)
			if err == nil {
				var text []byte
				text, err = io.ReadAll(response.Body)
				_ = response.Body.Close()
				a = answer{status: response.StatusCode, body: string(text)}
			}
			results <- result{a, body.taken.Load(), err}
		}()
	}
	w.fine(t)
	for range callers {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.want(t, 413, `"code":"too_large"`, "16777216")
		if r.taken > size/2 {
			t.Errorf("%d bytes were taken", r.taken)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > callers*50<<20 {
		t.Errorf("%d MiB were allocated", grown>>20)
	}
	if now := n.metric(t, "imgo_logic_http_problems_total", `code="too_large"`); now != counted+callers {
		t.Errorf("too_large went from %v to %v, want %d more", counted, now, callers)
	}
	w.fine(t)
}

// TestBadUserIDs passes invalid user ids by every way into the API.
func TestBadUserIDs(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	for _, test := range []struct{ name, json, path, says string }{
		{"empty", `""`, "", "must not be empty"},
		{"129 bytes", `"` + strings.Repeat("u", 129) + `"`, strings.Repeat("u", 129), "129 bytes long, at most 128"},
		{"129 bytes of ü", `"` + strings.Repeat("ü", 64) + `u"`, strings.Repeat("ü", 64) + "u", "129 bytes long"},
		{"a line feed", `"a\nb"`, "a\nb", "control character U+000A"},
		{"a zero", `"a\u0000"`, "a\x00", "control character U+0000"},
		{"DEL", `"a\u007f"`, "a\x7f", "control character U+007F"},
		{"C1", `"a\u0085"`, "a\u0085", "control character U+0085"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, call := range []struct{ path, body, field, label string }{
				{"/v1/push", `{"user":%s,"body":1}`, "user", "user"},
				{"/v1/push", `{"users":["a",%s],"body":1}`, "users[1]", "users"},
				{"/v1/push", `{"user":%s,"body":1,"kept":false}`, "user", "user"},
				{"/v1/push", `{"room":%s,"body":1}`, "room", "room"},
				{"/v1/push", `{"keys":[%s],"body":1}`, "keys[0]", "keys"},
				{"/v1/tokens", `{"user":%s}`, "user", "user"},
				{"/v1/users/online", `{"users":[%s]}`, "users[0]", "users"},
			} {
				moved := n.grows(t, apiProblem("invalid", call.label))
				a := n.call(t, "POST", call.path, fmt.Sprintf(call.body, test.json))
				a.want(t, 400, test.says, fmt.Sprintf(`"field":%q`, call.field))
				moved()
			}
			if test.path != "" {
				for _, path := range []string{"/v1/users/%s", "/v1/users/%s/kick"} {
					method := "GET"
					if strings.HasSuffix(path, "kick") {
						method = "POST"
					}
					a := n.call(t, method, fmt.Sprintf(path, url.PathEscape(test.path)), "")
					a.want(t, 400, test.says, `"field":"user"`)
				}
			}
			// A client can also name its user itself if auth.mode is none.
			c := n.tcp(t)
			c.put(packet(2, 7, 1, fmt.Sprintf(`{"mid":%s}`, test.json)))
			if test.json == `""` {
				c.closedWith(3501, "user must not be empty")
			} else {
				c.closedWith(3501, "user")
			}
			w.fine(t)
		})
	}
	// JSON must be valid UTF-8.
	n.call(t, "POST", "/v1/push", "{\"user\":\"\xff\",\"body\":1}").want(t, 400, `"field":"user"`, "UTF-8")
	n.call(t, "GET", "/v1/users/%ff", "").want(t, 400, `"field":"user"`, "UTF-8")
	w.fine(t)
}

// TestBadUIDs passes invalid numbers as uid and mid to /1 and /goim.
func TestBadUIDs(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	for _, uid := range []string{
		"", "-1", "-9223372036854775808", "9223372036854775808", "-9223372036854775809", "99999999999999999999999",
		"x", "1x", "0x1", "1.5", "1e3", "+1+", "١", "1\n", "\x00", "NaN", strings.Repeat("9", 10_000),
	} {
		t.Run(fmt.Sprintf("%.24q", uid), func(t *testing.T) {
			q := url.QueryEscape(uid)
			moved := n.grows(t, apiProblem("invalid", "uid"))
			n.call(t, "POST", "/1/push?uid="+q, `{"test":1}`).is(t, 200, `{"ret":65535}`)
			moved()
			n.call(t, "GET", "/1/msg/get?mid=0&token=x&uid="+q, "").is(t, 200, `{"ret":65534}`)
			n.call(t, "POST", "/1/admin/token/new", "token=x&expire=60&uid="+q, "Content-Type: application/x-www-form-urlencoded").is(t, 200,
				`{"ret":65534}`)
			if len(uid) < 100 && uid != "" && strings.Trim(uid, "-0123456789") == "" {
				moved := n.grows(t, apiProblem("invalid", "u"))
				n.call(t, "POST", "/1/pushs", fmt.Sprintf(`{"m":{"a":1},"u":[1,%s]}`, uid)).is(t, 200, `{"ret":65535}`)
				moved()
			}
			w.fine(t)
		})
	}
	moved := n.grows(t, apiProblem("invalid", "mids"))
	n.call(t, "POST", "/goim/push/mids?operation=5&mids=9223372036854775808", "x").want(t, 400, `"code":-400`)
	moved()
	n.call(t, "POST", "/1/pushs", `{"m":1,"u":["1"]}`).is(t, 200, `{"ret":65535}`)
	n.call(t, "POST", "/1/pushs", `{"m":1,"u":[1.5]}`).is(t, 200, `{"ret":65535}`)
	n.call(t, "POST", "/1/pushs", `not JSON`).is(t, 200, `{"ret":65535}`)
	n.call(t, "POST", "/1/push/room?rid=2147483648", "x").is(t, 200, `{"ret":65535}`)
	if s := n.user(t, "1"); s.Pending != 0 {
		t.Errorf("a message was kept for user 1: %+v", s)
	}
	w.fine(t)
}
