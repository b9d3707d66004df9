package httpapi_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

func someSession() *envelope.SessionInfo {
	return &envelope.SessionInfo{
		Address: &envelope.Address{Comet: "node-1", Session: 0xabc00000001}, User: "alice", Device: "phone", Key: "k", Platform: "ios",
		Remote: "[2001:db8::1]:5000", Generation: "v2", Transport: "ws", SinceMs: 1700000000000, Rooms: []string{"r1", "r2"},
		Accepts: []int32{1000},
	}
}

const someSessionJSON = `{"name":"node-1~00000abc00000001","user":"alice","device":"phone","key":"k","global_key":false,"platform":"ios",` +
	`"address":"[2001:db8::1]:5000","transport":"ws","generation":"v2","node":"node-1","since_ms":1700000000000,"rooms":["r1",` +
	`"r2"],"accepts":[1000]}`

func TestUser(t *testing.T) {
	var asked string
	h := newHarness(t, httpapi.Config{}, &fakeService{user: func(user string) (*envelope.UserReply, error) {
		asked = user
		if user != "alice" {
			return &envelope.UserReply{}, nil
		}
		return &envelope.UserReply{
			Sessions: []*envelope.SessionInfo{someSession(), {Address: &envelope.Address{Comet: "n", Session: 1}}},
			Devices:  []*envelope.DeviceInfo{{Device: "phone", SeenMs: 5, Pending: 2, Online: true}, {SeenMs: 6}},
			Pending:  3, OldestId: 1 << 48, NewestId: math.MaxUint64, Dropped: 4, LastSeenMs: 7, SinceMs: 8,
		}, nil
	}})
	want := `{"user":"alice","online":true,"sessions":[` + someSessionJSON +
		`,{"name":"n~0000000000000001","user":"","device":"","key":"n~0000000000000001","global_key":false,"platform":"","address":"",` +
		`"transport":"","generation":"","node":"n",` +
		`"since_ms":0,"rooms":[],"accepts":[]}],` +
		`"devices":[{"device":"phone","online":true,"last_seen_ms":5,"pending":2},{"device":"","online":false,"last_seen_ms":6,"pending":0}],` +
		`"pending":3,"oldest_id":"281474976710656","newest_id":"18446744073709551615","dropped":4,"last_seen_ms":7,"since_ms":8}` + "\n"
	if a := h.do("GET", "/v1/users/alice", ""); a.status != 200 || a.body != want {
		t.Errorf("answered %d\n%s\nwant\n%s", a.status, a.body, want)
	}
	nobody := `{"user":"a/b ä?","online":false,"sessions":[],"devices":[],"pending":0,"oldest_id":"0","newest_id":"0",` +
		`"dropped":0,"last_seen_ms":0,"since_ms":0}` + "\n"
	if a := h.do("GET", "/v1/users/a%2Fb%20%C3%A4%3F", ""); a.status != 200 || a.body != nobody || asked != "a/b ä?" {
		t.Errorf("answered %d\n%s\nwant\n%s", a.status, a.body, nobody)
	}
	if a := h.do("HEAD", "/v1/users/alice", ""); a.status != 200 {
		t.Errorf("HEAD answered %d", a.status)
	}
}

// TestPathNames checks that an invalid name is refused before the service is called.
func TestPathNames(t *testing.T) {
	for _, tt := range []struct{ escaped, message string }{
		{strings.Repeat("x", 129), "129 bytes"},
		{"%00", "control character"},
		{"a%0ab", "control character"},
		{"%C2%85", "control character"},
		{"%FF", "UTF-8"},
	} {
		for _, ask := range [][2]string{{"GET", "/v1/users/%s"}, {"POST", "/v1/users/%s/kick"}, {"GET", "/v1/rooms/%s"}} {
			h := newHarness(t, httpapi.Config{}, nil)
			a := h.do(ask[0], fmt.Sprintf(ask[1], tt.escaped), "")
			code, field, message := a.problem(t)
			if a.status != 400 || code != "invalid" || field != "user" && field != "room" || !strings.Contains(message, tt.message) {
				t.Errorf("%s %s answered %d: %s", ask[0], tt.escaped, a.status, a.body)
			}
			if calls := h.service.recorded(); len(calls) > 0 {
				t.Errorf("it did %q", calls)
			}
		}
	}
}

func TestUsersOnline(t *testing.T) {
	service := &fakeService{online: map[string]int{"a": 2, "b,c": 1}}
	for _, tt := range []struct {
		method, target, body, want, field string
	}{
		{"GET", "/v1/users?ids=a,x", "", `{"users":[{"user":"a","online":true,"sessions":2},{"user":"x","online":false,"sessions":0}]}`, ""},
		{"GET", "/v1/users?ids=b%2Cc", "", `{"users":[{"user":"b","online":false,"sessions":0},{"user":"c","online":false,"sessions":0}]}`, ""},
		{"GET", "/v1/users?ids=b%2Cc&ids=a", "",
			`{"users":[{"user":"b,c","online":true,"sessions":1},{"user":"a","online":true,"sessions":2}]}`, ""},
		{"POST", "/v1/users/online", `{"users":["b,c","a","a"]}`,
			`{"users":[{"user":"b,c","online":true,"sessions":1},{"user":"a","online":true,"sessions":2},{"user":"a","online":true,` +
				`"sessions":2}]}`, ""},
		{"GET", "/v1/users", "", "", "ids"},
		{"GET", "/v1/users?ids=", "", "", "ids[0]"},
		{"GET", "/v1/users?ids=a,,b", "", "", "ids[1]"},
		{"GET", "/v1/users?ids=a&id=b", "", "", "id"},
		{"GET", "/v1/users?ids=" + strings.Repeat("a,", 1000) + "a", "", "", "ids"},
		{"POST", "/v1/users/online", `{"users":[]}`, "", "users"},
		{"POST", "/v1/users/online", `{}`, "", "users"},
		{"POST", "/v1/users/online", `{"users":["a",""]}`, "", "users[1]"},
		{"POST", "/v1/users/online", `{"users":["a",{}]}`, "", "users[1]"},
		{"POST", "/v1/users/online", `{"ids":["a"]}`, "", "ids"},
	} {
		h := newHarness(t, httpapi.Config{}, service)
		a := h.doUnchecked(tt.method, tt.target, tt.body)
		if len(tt.target) < 1000 && !strings.Contains(tt.target, "&ids") { // The validator does not accept both forms together.
			a = h.do(tt.method, tt.target, tt.body)
		}
		if tt.field != "" {
			if _, field, _ := a.problem(t); a.status != 400 || field != tt.field {
				t.Errorf("%.60s %s answered %d: %s", tt.target, tt.body, a.status, a.body)
			}
		} else if a.status != 200 || a.body != tt.want+"\n" {
			t.Errorf("%s %s answered %d\n%swant\n%s", tt.target, tt.body, a.status, a.body, tt.want)
		}
	}
}

func TestKick(t *testing.T) {
	for _, tt := range []struct {
		body  string
		want  logic.KickFilter
		field string
	}{
		{"", logic.KickFilter{}, ""},
		{"{}", logic.KickFilter{}, ""},
		{`{"device":"phone","reason":"bye"}`, logic.KickFilter{Device: "phone", Reason: "bye"}, ""},
		{`{"session":"node-1-abc","code":3001}`, logic.KickFilter{Session: "node-1-abc", Code: protocol.CloseShutdown}, ""},
		{`{"session":"x","device":"y"}`, logic.KickFilter{}, "session"},
		{`{"device":""}`, logic.KickFilter{}, "device"},
		{`{"session":""}`, logic.KickFilter{}, "session"},
		{`{"code":1000}`, logic.KickFilter{}, "code"},
		{`{"code":5000}`, logic.KickFilter{}, "code"},
		{`{"reason":"` + strings.Repeat("x", 124) + `"}`, logic.KickFilter{}, "reason"},
		{`{"user":"b"}`, logic.KickFilter{}, "user"},
		{`[]`, logic.KickFilter{}, ""},
	} {
		h := newHarness(t, httpapi.Config{}, nil)
		a := h.do("POST", "/v1/users/alice/kick", tt.body)
		if tt.field != "" || tt.body == "[]" {
			if _, field, _ := a.problem(t); a.status != 400 || field != tt.field || len(h.service.recorded()) > 0 {
				t.Errorf("%s answered %d: %s; done: %q", tt.body, a.status, a.body, h.service.recorded())
			}
		} else if a.status != 200 || a.body != "{\"sessions\":2}\n" || h.service.kicked != tt.want {
			t.Errorf("%s answered %d: %s; kicked %+v", tt.body, a.status, a.body, h.service.kicked)
		}
	}
}

func TestRooms(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, &fakeService{
		rooms: map[string]uint32{"a1": 1, "a2": 5, "b": 5, "empty": 0},
		room: func(room string, limit int) ([]*envelope.SessionInfo, int, error) {
			return []*envelope.SessionInfo{someSession(), someSession()}[:min(2, limit+1)], 7, nil
		},
	})
	for _, tt := range []struct{ target, want, field string }{
		{"/v1/rooms", `{"rooms":[{"room":"a2","sessions":5},{"room":"b","sessions":5},{"room":"a1","sessions":1}],"total":3}`, ""},
		{"/v1/rooms?limit=1", `{"rooms":[{"room":"a2","sessions":5}],"total":3}`, ""},
		{"/v1/rooms?prefix=a&limit=10", `{"rooms":[{"room":"a2","sessions":5},{"room":"a1","sessions":1}],"total":2}`, ""},
		{"/v1/rooms?prefix=zzz", `{"rooms":[],"total":0}`, ""},
		{"/v1/rooms/a%2F1?limit=1", `{"members":[` + someSessionJSON + `],"room":"a/1","sessions":7}`, ""},
		{"/v1/rooms/b?limit=0", `{"members":[],"room":"b","sessions":7}`, ""},
		{"/v1/rooms?limit=0", "", "limit"},
		{"/v1/rooms?limit=10001", "", "limit"},
		{"/v1/rooms?limit=x", "", "limit"},
		{"/v1/rooms?prefx=a", "", "prefx"},
		{"/v1/rooms/b?limit=-1", "", "limit"},
		{"/v1/rooms/b?max=1", "", "max"},
	} {
		a := h.do("GET", tt.target, "")
		if tt.field != "" {
			if _, field, _ := a.problem(t); a.status != 400 || field != tt.field {
				t.Errorf("%s answered %d: %s", tt.target, a.status, a.body)
			}
		} else if a.status != 200 || a.body != tt.want+"\n" {
			t.Errorf("%s answered %d\n%swant\n%s", tt.target, a.status, a.body, tt.want)
		}
	}
}

func TestTokens(t *testing.T) {
	for _, tt := range []struct {
		target, body string
		status       int
		want, field  string
		call         string
	}{
		{"/v1/tokens", `{"user":"a","ttl":"1h"}`, 201, `{"token":"imgo_made","user":"a","expires_ms":1700003600000}`, "", "new token a"},
		{"/v1/tokens", `{"user":"a","ttl":60,"token":"mine","single":true}`, 201,
			`{"token":"mine","user":"a","expires_ms":1700000060000}`, "", "new token a"},
		{"/v1/tokens", `{"user":"a"}`, 201, `{"token":"imgo_made","user":"a","expires_ms":0}`, "", "new token a"},
		{"/v1/tokens", `{}`, 400, "", "user", ""},
		{"/v1/tokens", `{"user":"a","ttl":0}`, 400, "", "ttl", ""},
		{"/v1/tokens", `{"user":"a","token":""}`, 400, "", "token", ""},
		{"/v1/tokens", `{"user":"a\u0000"}`, 400, "", "user", ""},
		{"/v1/tokens", `{"user":"a","single":"yes"}`, 400, "", "single", ""},
		{"/v1/tokens", `{"user":"a","rooms":"team"}`, 400, "", "rooms", ""},
		{"/v1/tokens", `{"user":"a","rooms":["team",5]}`, 400, "", "rooms[1]", ""},
		{"/v1/tokens", `{"user":"a","expire":5}`, 400, "", "expire", ""},
		{"/v1/tokens/revoke", `{"token":"t"}`, 200, `{"revoked":1}`, "", "revoke token t and close"},
		{"/v1/tokens/revoke", `{"token":"t","close":false}`, 200, `{"revoked":1}`, "", "revoke token t"},
		{"/v1/tokens/revoke", `{"user":"u","close":true}`, 200, `{"revoked":3}`, "", "revoke user u and close"},
		{"/v1/tokens/revoke", `{"close":true}`, 400, "", "token", ""},
		{"/v1/tokens/revoke", `{"token":"t","user":"u"}`, 400, "", "user", ""},
		{"/v1/tokens/revoke", `{"user":""}`, 400, "", "user", ""},
		{"/v1/tokens/revoke", `{"token":"","user":"u"}`, 400, "", "token", ""},
		{"/v1/tokens/revoke", `{"user":"u","close":null}`, 400, "", "close", ""},
	} {
		h := newHarness(t, httpapi.Config{}, nil)
		a := h.do("POST", tt.target, tt.body)
		if tt.status == 400 {
			if _, field, _ := a.problem(t); a.status != 400 || field != tt.field || len(h.service.recorded()) > 0 {
				t.Errorf("%s answered %d: %s; done: %q", tt.body, a.status, a.body, h.service.recorded())
			}
			continue
		}
		if a.status != tt.status || a.body != tt.want+"\n" || h.service.recorded()[0] != tt.call {
			t.Errorf("%s answered %d: %s; did %q", tt.body, a.status, a.body, h.service.recorded())
		}
		if tt.status == 201 && a.header.Get("Cache-Control") != "no-store" {
			t.Error("an answer with a token may be stored")
		}
	}
	h := newHarness(t, httpapi.Config{}, nil)
	h.do("POST", "/v1/tokens", `{"user":"a","ttl":1.5,"single":true}`)
	if want := (madeToken{"a", 1500 * time.Millisecond, "", true}); h.service.made[0] != want {
		t.Errorf("made %+v, want %+v", h.service.made[0], want)
	}
	h.do("POST", "/v1/tokens", `{"user":"a","rooms":["team","private/a-*"]}`)
	if want := []string{"team", "private/a-*"}; !slices.Equal(h.service.madeRooms, want) {
		t.Errorf("made a token for the rooms %q, want %q", h.service.madeRooms, want)
	}
}

func TestOverview(t *testing.T) {
	var after uint64
	var limit int
	service := &fakeService{
		stats: logic.Stats{Sessions: 3, Comets: map[string]int{"n": 3}, Rooms: 2, Pushes: map[string]uint64{"kept": 9}, UptimeMS: 1000},
		nodes: func() []logic.NodeInfo {
			return []logic.NodeInfo{{Name: "n", Roles: []string{"comet"}, Version: "v", StartMS: 1, Ready: true, Sessions: 3,
				Clients: map[string]string{"tcp": "a:1"}}, {Name: "m"}}
		},
		notices: func(a uint64, n int) []logic.Notice {
			after, limit = a, n
			return []logic.Notice{{Seq: 8, TimeMS: 5, Kind: "mailbox_dropped", User: "a", Detail: "d"}, {Seq: 9, TimeMS: 6, Kind: "other"}}
		},
	}
	h := newHarness(t, httpapi.Config{}, service)
	for target, want := range map[string]string{
		"/v1/stats": `{"sessions":3,"comets":{"n":3},"rooms":2,"pushes":{"kept":9},"uptime_ms":1000}`,
		"/v1/nodes": `{"nodes":[{"name":"n","roles":["comet"],"version":"v","start_ms":1,"ready":true,"sessions":3,"clients":{"tcp":"a:1"}},` +
			`{"name":"m","roles":[],"version":"","start_ms":0,"ready":false,"sessions":0}]}`,
		"/v1/notices?after=7&limit=5": `{"last":9,"notices":[{"seq":8,"time_ms":5,"kind":"mailbox_dropped","user":"a","detail":"d"},{"seq":9,` +
			`"time_ms":6,"kind":"other"}]}`,
	} {
		if a := h.do("GET", target, ""); a.status != 200 || a.body != want+"\n" {
			t.Errorf("%s answered %d\n%swant\n%s", target, a.status, a.body, want)
		}
	}
	if after != 7 || limit != 5 {
		t.Errorf("asked for %d notices after %d", limit, after)
	}
	empty := newHarness(t, httpapi.Config{}, nil)
	for target, want := range map[string]string{
		"/v1/stats":           `{"sessions":0,"comets":{},"rooms":0,"pushes":{},"uptime_ms":0}`,
		"/v1/nodes":           `{"nodes":[]}`,
		"/v1/notices?after=7": `{"last":7,"notices":[]}`,
	} {
		if a := empty.do("GET", target, ""); a.status != 200 || a.body != want+"\n" {
			t.Errorf("%s answered %d\n%swant\n%s", target, a.status, a.body, want)
		}
	}
	for _, target := range []string{"/v1/notices?after=-1", "/v1/notices?limit=0", "/v1/notices?since=1", "/v1/stats?x=1", "/v1/nodes?x=1"} {
		if a := h.do("GET", target, ""); a.status != 400 {
			t.Errorf("%s answered %d: %s", target, a.status, a.body)
		}
	}
}

// TestWrongPathsAndMethods checks that 404 and 405 have the same format as other errors.
func TestWrongPathsAndMethods(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	for _, tt := range []struct {
		method, target string
		status         int
		code, allow    string
	}{
		{"GET", "/v1/push", 405, "method_not_allowed", "POST"},
		{"PUT", "/v1/users/alice", 405, "method_not_allowed", "DELETE, GET"},
		{"DELETE", "/v1/users/alice/devices/", 404, "not_found", ""},
		{"POST", "/v1/openapi.json", 405, "method_not_allowed", "GET"},
		{"GET", "/v1/nothing", 404, "not_found", ""},
		{"POST", "/v1/push/", 404, "not_found", ""},
		{"GET", "/v2/push", 404, "not_found", ""},
		{"GET", "/", 404, "not_found", ""},
		{"GET", "/%ff", 404, "not_found", ""},
	} {
		a := h.do(tt.method, tt.target, "")
		if code, _, _ := a.problem(t); a.status != tt.status || code != tt.code || a.header.Get("Allow") != tt.allow {
			t.Errorf("%s %s answered %d, Allow %q: %s", tt.method, tt.target, a.status, a.header.Get("Allow"), a.body)
		}
	}
}

func TestPanicIsAnError(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, &fakeService{user: func(string) (*envelope.UserReply, error) { panic("a bug of ours") }})
	a := h.do("GET", "/v1/users/alice", "")
	if code, _, message := a.problem(t); a.status != http.StatusInternalServerError || code != "internal" || strings.Contains(message, "bug") {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
	if !strings.Contains(h.logged.String(), "a bug of ours") {
		t.Errorf("the log does not say why: %s", h.logged.String())
	}
}

// TestUnknownParameters checks that each call of /v1 refuses a query parameter that it does not have, and does nothing.
func TestUnknownParameters(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	for route := range h.api.Scopes() {
		method, path, _ := strings.Cut(route, " ")
		if !strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v1/openapi.") {
			continue
		}
		path = strings.NewReplacer("{", "", "}", "").Replace(path) + "?idempotency_key=1"
		if a := h.do(method, path, `{"user":"a","users":["a"],"body":1,"kept":5,"from_ms":1}`); a.status != http.StatusBadRequest {
			t.Errorf("%s answered %d: %s", route, a.status, a.body)
		} else if _, field, _ := a.problem(t); field != "idempotency_key" {
			t.Errorf("%s names the field %q", route, field)
		}
	}
	if calls := h.service.recorded(); len(calls) > 0 {
		t.Errorf("they did %q", calls)
	}
}

// TestMessageBodies checks how the list of messages shows bodies: it is valid JSON whatever they are.
func TestMessageBodies(t *testing.T) {
	for body, want := range map[string]string{
		`{"a":1}`: `"body":{"a":1}`, "text": `"body_text":"text"`, "\xff": `"body_base64":"/w=="`, "\"\xff\"": `"body_base64":"Iv8i"`,
	} {
		waiting := []*envelope.WaitingMessage{{Id: 7, Op: 5, Size: uint32(len(body)), Body: []byte(body)}}
		h := newHarness(t, httpapi.Config{}, &fakeService{messages: &envelope.MessagesReply{Messages: waiting}})
		if a := h.do("GET", "/v1/users/a/messages?bodies=true", ""); a.status != http.StatusOK || !strings.Contains(a.body, want) {
			t.Errorf("%q: answered %d: %s", body, a.status, a.body)
		}
	}
}

// TestExplanationsAreBounded checks that few messages are explained at the same time, by both paths together.
func TestExplanationsAreBounded(t *testing.T) {
	const places = 8
	arrived, release := make(chan struct{}), make(chan struct{})
	h := newHarness(t, httpapi.Config{}, &fakeService{explain: func() {
		select {
		case arrived <- struct{}{}:
			<-release
		case <-release:
		}
	}})
	paths := []string{"/v1/users/a/messages/7/explain", "/v1/user/messages/7/explain?user=a"}
	var calls sync.WaitGroup
	for i := range places {
		calls.Go(func() {
			if a := h.do("GET", paths[i%2], ""); a.status != http.StatusOK {
				t.Errorf("call %d answered %d: %s", i, a.status, a.body)
			}
		})
		<-arrived
	}
	for _, path := range paths {
		refused := make(chan answer, 1)
		calls.Go(func() { refused <- h.do("GET", path, "") })
		select {
		case <-arrived:
			t.Errorf("%s: one more message is explained", path)
		case a := <-refused:
			if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
				t.Errorf("%s: one more answered %d: %s", path, a.status, a.body)
			}
		}
	}
	close(release)
	calls.Wait()
	if a := h.do("GET", paths[0], ""); a.status != http.StatusOK {
		t.Errorf("afterwards answered %d: %s", a.status, a.body)
	}
}
