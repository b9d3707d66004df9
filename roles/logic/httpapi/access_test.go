package httpapi_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"imgo/roles/logic/httpapi"
)

// openRoutes are the routes that need no API key.
var openRoutes = []string{"GET /v1/nodes/best", "GET /v1/openapi.json", "GET /v1/openapi.yaml"}

func TestEveryRouteHasAScope(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	scopes := h.api.Scopes()
	if len(scopes) < 30 {
		t.Fatalf("only %d routes", len(scopes))
	}
	for route, scope := range scopes {
		if slices.Contains(openRoutes, route) {
			if scope != "open" {
				t.Errorf("%s needs the scope %q", route, scope)
			}
		} else if !slices.Contains(httpapi.Scopes(), scope) {
			t.Errorf("%s has the scope %q: give it one in the table of routes", route, scope)
		}
	}
}

// TestScopes checks for each route that only a key with its scope may use it.
func TestScopes(t *testing.T) {
	keys := []httpapi.Key{{Name: "all", Key: "key-of-all"}}
	for _, scope := range httpapi.Scopes() {
		keys = append(keys, httpapi.Key{Name: string(scope), Key: "key-of-" + string(scope), Scopes: []string{string(scope)}})
	}
	h := newHarness(t, httpapi.Config{Keys: keys}, nil)
	for route, scope := range h.api.Scopes() {
		method, path, _ := strings.Cut(route, " ")
		path = strings.NewReplacer("{user}", "alice", "{room}", "lobby").Replace(path)
		for _, key := range keys {
			may := key.Name == "all" || key.Name == string(scope) || scope == "open"
			before := len(h.service.recorded())
			a := h.doUnchecked(method, path, "", "X-API-Key: "+key.Key)
			if (a.status == http.StatusForbidden) == may {
				t.Errorf("%s with the scope %s was answered %d: %s", route, key.Name, a.status, a.body)
			}
			if may {
				continue
			}
			if len(h.service.recorded()) != before {
				t.Errorf("%s with the scope %s did something", route, key.Name)
			}
			switch {
			case strings.HasPrefix(path, "/v1/"):
				code, field, message := a.problem(t)
				if code != "forbidden" || field != "Authorization" || !strings.Contains(message, `"`+string(scope)+`"`) {
					t.Errorf("%s: %s", route, a.body)
				}
			case strings.HasPrefix(path, "/1/"):
				if a.body != `{"ret":65533}` {
					t.Errorf("%s: %s", route, a.body)
				}
			default:
				if !strings.HasPrefix(a.body, `{"code":-400,`) || !strings.Contains(a.body, string(scope)) {
					t.Errorf("%s: %s", route, a.body)
				}
			}
		}
	}
	if n := counted(t, h.reg)["imgo_logic_http_callers_total key=push outcome=forbidden"]; n == 0 {
		t.Error("refusals are not counted")
	}
}

// TestPatternsOfEveryRoute asks every route of /v1 with a key whose patterns fit no name in the path, and without a
// query or a body. Routes that get past that check patterns by themselves: TestPatterns has requests for each of them.
func TestPatternsOfEveryRoute(t *testing.T) {
	own := []string{
		"GET /v1/nodes", "GET /v1/partitions", "GET /v1/rooms", "GET /v1/stats", "GET /v1/users", "POST /v1/push", "POST /v1/push/batch",
		"POST /v1/push/stream", "POST /v1/tokens", "POST /v1/tokens/revoke", "POST /v1/users/online",
	}
	h := newHarness(t, httpapi.Config{Keys: []httpapi.Key{{
		Name: "shop", Key: "shop", Scopes: []string{"push", "read", "users", "tokens", "rooms"},
		Users: []string{"shop-*"}, Rooms: []string{"shop-*"},
	}}}, nil)
	var passed []string
	for route := range h.api.Scopes() {
		method, path, _ := strings.Cut(route, " ")
		if !strings.HasPrefix(path, "/v1/") || slices.Contains(openRoutes, route) {
			continue
		}
		path = strings.NewReplacer("{user}", "bank-1", "{room}", "bank-1").Replace(path)
		before := len(h.service.recorded())
		if a := h.doUnchecked(method, path, "", "X-API-Key: shop"); a.status != http.StatusForbidden {
			passed = append(passed, route)
		} else if done := h.service.recorded()[before:]; len(done) > 0 {
			t.Errorf("%s was refused after %q", route, done)
		}
	}
	if slices.Sort(passed); !slices.Equal(passed, own) {
		t.Errorf("these check patterns by themselves:\n%v\nknown are\n%v", passed, own)
	}
}

// TestPatterns checks that a key with patterns names no other user and room, by any route.
func TestPatterns(t *testing.T) {
	everything := []string{"push", "read", "users", "tokens", "rooms"}
	keys := []httpapi.Key{
		{Name: "both", Key: "both", Scopes: everything, Users: []string{"shop-*", "7"}, Rooms: []string{"shop/*", "live://7", "7"}},
		{Name: "rooms", Key: "rooms", Scopes: everything, Rooms: []string{"shop/*"}},
	}
	for _, tt := range []struct {
		key, method, path, body string
		forbidden               bool
	}{
		{"both", "POST", "/v1/push", `{"user":"shop-1","body":1}`, false},
		{"both", "POST", "/v1/push", `{"user":"bank-1","body":1}`, true},
		{"both", "POST", "/v1/push", `{"users":["shop-1","bank-1"],"body":1}`, true},
		{"both", "POST", "/v1/push", `{"room":"shop/1","body":1}`, false},
		{"both", "POST", "/v1/push", `{"room":"bank/1","body":1}`, true},
		{"both", "POST", "/v1/push", `{"keys":["shop-1"],"body":1}`, true},
		{"both", "POST", "/v1/push", `{"user":"shop-1","keys":["phone"],"body":1}`, false},
		{"both", "POST", "/v1/push", `{"user":"bank-1","keys":["phone"],"body":1}`, true},
		{"both", "POST", "/v1/push", `{"all":true,"body":1}`, true},
		{"rooms", "POST", "/v1/push", `{"user":"shop-1","body":1}`, true},
		{"rooms", "POST", "/v1/push", `{"room":"shop/1","body":1}`, false},
		{"both", "GET", "/v1/users/shop-1", "", false},
		{"both", "GET", "/v1/users/bank-1", "", true},
		{"both", "GET", "/v1/users?ids=shop-1,bank-1", "", true},
		{"both", "GET", "/v1/users?ids=shop-1", "", false},
		{"both", "POST", "/v1/users/online", `{"users":["bank-1"]}`, true},
		{"both", "POST", "/v1/users/bank-1/read", `{"up_to":"7"}`, true},
		{"both", "POST", "/v1/users/shop-1/read", `{"up_to":"7"}`, false},
		{"both", "POST", "/v1/user/read?user=bank-1", `{"up_to":"7"}`, true},
		{"both", "POST", "/v1/users/bank-1/kick", "", true},
		{"both", "POST", "/v1/users/shop-1/kick", "", false},
		{"both", "GET", "/v1/users/bank-1/tokens", "", true},
		{"both", "GET", "/v1/users/shop-1/tokens", "", false},
		{"both", "DELETE", "/v1/users/bank-1", "", true},
		{"both", "DELETE", "/v1/users/shop-1", "", false},
		{"both", "DELETE", "/v1/users/bank-1/messages", "", true},
		{"both", "DELETE", "/v1/users/shop-1/messages", "", false},
		{"both", "DELETE", "/v1/users/bank-1/devices/d", "", true},
		{"both", "DELETE", "/v1/users/shop-1/devices/d", "", false},
		{"both", "GET", "/v1/rooms/shop%2F1", "", false},
		{"both", "GET", "/v1/rooms/bank%2F1", "", true},
		{"both", "GET", "/v1/room?room=bank/1", "", true},
		{"both", "GET", "/v1/user?user=bank-1", "", true},
		{"both", "DELETE", "/v1/user?user=bank-1", "", true},
		{"both", "DELETE", "/v1/user/devices?user=bank-1&device=d", "", true},
		{"both", "DELETE", "/v1/user/devices?user=shop-1&device=d", "", false},
		{"both", "DELETE", "/v1/user/messages?user=bank-1", "", true},
		{"both", "GET", "/v1/user/tokens?user=bank-1", "", true},
		{"both", "POST", "/v1/user/kick?user=bank-1", "", true},
		{"both", "POST", "/v1/user/kick?user=shop-1", "", false},
		{"both", "PUT", "/v1/rooms/shop%2F1/users/shop-1", "", false},
		{"both", "PUT", "/v1/rooms/shop%2F1/users/bank-1", "", true},
		{"both", "DELETE", "/v1/rooms/bank%2F1/users/shop-1", "", true},
		{"both", "PUT", "/v1/memberships?room=bank/1&user=shop-1", "", true},
		{"both", "GET", "/v1/users/shop-1/rooms", "", false},
		{"both", "GET", "/v1/memberships?user=bank-1", "", true},
		{"both", "GET", "/v1/notices", "", true},
		{"both", "GET", "/v1/events", "", true},
		{"both", "GET", "/v1/events?user=bank-1", "", true},
		{"both", "GET", "/v1/events?user=shop-1", "", false},
		{"both", "GET", "/v1/users/bank-1/messages", "", true},
		{"both", "GET", "/v1/users/shop-1/messages", "", false},
		{"both", "GET", "/v1/users/bank-1/messages/7", "", true},
		{"both", "GET", "/v1/users/shop-1/messages/7", "", false},
		{"both", "POST", "/v1/tokens", `{"user":"shop-1"}`, false},
		{"both", "POST", "/v1/tokens", `{"user":"bank-1"}`, true},
		{"both", "POST", "/v1/tokens", `{"user":"shop-1","rooms":["shop/1","shop/a*"]}`, false},
		{"both", "POST", "/v1/tokens", `{"user":"shop-1","rooms":["shop/1","*"]}`, true},
		{"both", "POST", "/v1/tokens/revoke", `{"user":"bank-1"}`, true},
		{"both", "POST", "/v1/tokens/revoke", `{"token":"token-of-bank-1"}`, true},
		{"both", "POST", "/v1/tokens/revoke", `{"token":"token-of-shop-1"}`, false},
		{"both", "POST", "/1/push?uid=7", "x", false},
		{"both", "POST", "/1/push?uid=8", "x", true},
		{"both", "POST", "/1/pushs", `{"m":1,"u":[7,8]}`, true},
		{"both", "POST", "/1/push/room?rid=7", "x", false},
		{"both", "POST", "/1/push/room?rid=8", "x", true},
		{"both", "POST", "/1/push/all", "x", true},
		{"both", "POST", "/1/admin/token/new?uid=8&token=t&expire=9", "", true},
		{"both", "GET", "/1/msg/get?uid=8&mid=0&token=token-of-8", "", true},
		{"both", "POST", "/goim/push/mids?operation=1000&mids=7&mids=8", "x", true},
		{"both", "POST", "/goim/push/keys?operation=1000&keys=k", "x", true},
		{"both", "POST", "/goim/push/keys?operation=1000&keys=k&mid=8", "x", true},
		{"both", "POST", "/goim/push/keys?operation=1000&keys=k&mid=7", "x", false},
		{"both", "POST", "/goim/push/room?operation=1000&type=live&room=7", "x", false},
		{"both", "POST", "/goim/push/room?operation=1000&type=live&room=8", "x", true},
		{"both", "POST", "/goim/push/all?operation=1000", "x", true},
	} {
		t.Run(tt.key+" "+tt.path+tt.body, func(t *testing.T) {
			service := &fakeService{tokens: map[string]string{"token-of-bank-1": "bank-1", "token-of-shop-1": "shop-1", "token-of-8": "8"}}
			h := newHarness(t, httpapi.Config{Keys: keys}, service)
			a := h.doUnchecked(tt.method, tt.path, tt.body, "X-API-Key: "+tt.key)
			done := slices.DeleteFunc(service.recorded(), func(call string) bool { return call == "check token" })
			if tt.forbidden && len(done) > 0 {
				t.Errorf("did %q and answered %d: %s", done, a.status, a.body)
			}
			if !tt.forbidden && (len(done) == 0 || a.status >= 300) {
				t.Errorf("did %q and answered %d: %s", done, a.status, a.body)
			}
			if tt.forbidden && strings.HasPrefix(tt.path, "/v1/") && a.status != http.StatusForbidden {
				t.Errorf("answered %d: %s", a.status, a.body)
			}
		})
	}
}

// TestPatternsOfManyPushes checks that each push of a batch and of a stream is compared with the patterns.
func TestPatternsOfManyPushes(t *testing.T) {
	keys := []httpapi.Key{{Name: "shop", Key: "shop", Scopes: []string{"push"}, Users: []string{"shop-*"}}}
	for path, body := range map[string]string{
		"/v1/push/batch":  `{"pushes":[{"user":"shop-1","body":1},{"user":"bank-1","body":1}]}`,
		"/v1/push/stream": `{"user":"shop-1","body":1}` + "\n" + `{"user":"bank-1","body":1}` + "\n",
	} {
		t.Run(path, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{Keys: keys}, nil)
			a := h.doUnchecked("POST", path, body, "X-API-Key: shop")
			if strings.Count(a.body, `"status":202`) != 1 || strings.Count(a.body, `"status":403`) != 1 || len(h.service.recorded()) != 1 {
				t.Errorf("did %q and answered %d: %s", h.service.recorded(), a.status, a.body)
			}
		})
	}
}

// TestPatternsOfLists checks that lists of rooms leave out those of others.
func TestPatternsOfLists(t *testing.T) {
	service := &fakeService{rooms: map[string]uint32{"shop/1": 1, "bank/1": 2, "7": 3, "8": 4, "live://7": 5, "live://8": 6}}
	h := newHarness(t, httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "a", Scopes: []string{"read"}, Rooms: []string{"shop/*", "7",
		"live://7"}}}}, service)
	var list struct {
		Rooms []struct{ Room string }
		Total int
	}
	if err := json.Unmarshal([]byte(h.do("GET", "/v1/rooms", "", "X-API-Key: a").body), &list); err != nil {
		t.Fatal(err)
	}
	if list.Total != 3 || len(list.Rooms) != 3 {
		t.Errorf("listed %+v", list)
	}
	if a := h.do("GET", "/1/count?type=room", "", "X-API-Key: a"); strings.Contains(a.body, `"RoomId":8`) || !strings.Contains(a.body,
		`"RoomId":7`) {
		t.Errorf("/1/count listed %s", a.body)
	}
	if a := h.do("GET", "/goim/online/top?type=live&limit=9", "", "X-API-Key: a"); strings.Contains(a.body, `"8"`) ||
		!strings.Contains(a.body, `"7"`) {
		t.Errorf("/goim/online/top listed %s", a.body)
	}
}

func TestKeyExplains(t *testing.T) {
	for _, tt := range []struct {
		key  httpapi.Key
		want string
	}{
		{httpapi.Key{Name: "a"}, `API key "a" may do everything, since it has no scopes`},
		{httpapi.Key{Name: "a", Scopes: []string{"push"}}, `API key "a" may push messages (push)`},
		{httpapi.Key{Name: "a", Scopes: []string{"push", "tokens"}, Users: []string{"x-*", "y"}, Rooms: []string{"r"}},
			`API key "a" may push messages (push) and make and revoke tokens (tokens), but only of users x-*, y and rooms r`},
	} {
		if got := tt.key.Explain(); got != tt.want {
			t.Errorf("got %s\nwant %s", got, tt.want)
		}
	}
	for _, scope := range httpapi.Scopes() {
		key := httpapi.Key{Name: "a", Scopes: []string{string(scope)}}
		if strings.Contains(key.Explain(), "may  (") {
			t.Errorf("%s is not explained: %s", scope, key.Explain())
		}
	}
}
