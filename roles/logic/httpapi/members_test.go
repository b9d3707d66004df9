package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"imgo/roles/logic/httpapi"
)

func TestMembers(t *testing.T) {
	long := strings.Repeat("x", 129)
	for _, tt := range []struct {
		method, target string
		body           string // the answer, or the field that is wrong
		call           string
	}{
		{"PUT", "/v1/rooms/team/users/ann", `{"room":"team","user":"ann","member":true,"sessions":2,"late":1}`, "member team ann true"},
		{"DELETE", "/v1/rooms/team/users/ann", `{"room":"team","user":"ann","member":false,"sessions":2,"late":1}`, "member team ann false"},
		{"PUT", "/v1/rooms/live:%2F%2F1/users/a%2Fb",
			`{"room":"live://1","user":"a/b","member":true,"sessions":2,"late":1}`, "member live://1 a/b true"},
		{"PUT", "/v1/memberships?room=live://1&user=.",
			`{"room":"live://1","user":".","member":true,"sessions":2,"late":1}`, "member live://1 . true"},
		{"DELETE", "/v1/memberships?room=a&user=b", `{"room":"a","user":"b","member":false,"sessions":2,"late":1}`, "member a b false"},
		{"GET", "/v1/users/ann/rooms", `{"user":"ann","rooms":["a","b"],"limit":100}`, "rooms of ann"},
		{"GET", "/v1/memberships?user=online", `{"user":"online","rooms":["a","b"],"limit":100}`, "rooms of online"},
		{"PUT", "/v1/rooms/" + long + "/users/ann", "room", ""},
		{"PUT", "/v1/rooms/team/users/a%00", "user", ""},
		{"PUT", "/v1/rooms/team/users/ann?force=1", "force", ""},
		{"PUT", "/v1/memberships?user=ann", "room", ""},
		{"DELETE", "/v1/memberships?room=a", "user", ""},
		{"DELETE", "/v1/memberships?room=a&user=", "user", ""},
		{"GET", "/v1/memberships", "user", ""},
		{"GET", "/v1/memberships?user=a&room=b", "room", ""},
		{"GET", "/v1/users/ann/rooms?limit=5", "limit", ""},
	} {
		h := newHarness(t, httpapi.Config{}, nil)
		a := h.do(tt.method, tt.target, "")
		if tt.call == "" {
			if _, field, _ := a.problem(t); a.status != 400 || field != tt.body || len(h.service.recorded()) > 0 {
				t.Errorf("%s %s answered %d: %s; done: %q", tt.method, tt.target, a.status, a.body, h.service.recorded())
			}
			continue
		}
		if a.status != 200 || a.body != tt.body+"\n" || h.service.recorded()[0] != tt.call {
			t.Errorf("%s %s answered %d: %s; did %q", tt.method, tt.target, a.status, a.body, h.service.recorded())
		}
	}
}

// TestNamesThatAPathCannotCarry checks that every user and every room can be shown.
func TestNamesThatAPathCannotCarry(t *testing.T) {
	for _, name := range []string{"online", ".", "..", "/", "live://1000"} {
		h := newHarness(t, httpapi.Config{}, nil)
		if a := h.do("GET", "/v1/user?user="+name, ""); a.status != 200 || h.service.recorded()[0] != "user "+name {
			t.Errorf("user %q: %d %s; did %q", name, a.status, a.body, h.service.recorded())
		}
		h = newHarness(t, httpapi.Config{}, nil)
		if a := h.do("GET", "/v1/room?limit=1&room="+name, ""); a.status != 200 || !strings.HasPrefix(h.service.recorded()[0], "room "+name) {
			t.Errorf("room %q: %d %s; did %q", name, a.status, a.body, h.service.recorded())
		}
	}
	for _, name := range []string{"online", ".", "..", "/", "live://1000"} {
		for _, tt := range []struct{ method, path, call string }{
			{"DELETE", "/v1/user?", "erase " + name},
			{"DELETE", "/v1/user/messages?", "purge " + name},
			{"DELETE", "/v1/user/devices?device=/&", "forget " + name + " /"},
			{"DELETE", "/v1/user/devices?device=&", "forget " + name + " "}, // the device without a name
			{"GET", "/v1/user/tokens?", "list tokens of " + name},
			{"POST", "/v1/user/kick?", "kick " + name},
		} {
			h := newHarness(t, httpapi.Config{}, nil)
			if a := h.do(tt.method, tt.path+"user="+name, ""); a.status != 200 || fmt.Sprint(h.service.recorded()) != "["+tt.call+"]" {
				t.Errorf("%s %s of %q: %d %s; did %q", tt.method, tt.path, name, a.status, a.body, h.service.recorded())
			}
		}
	}
	for target, want := range map[string]string{
		"/v1/user/devices?user=a": "device", "/v1/user/devices?device=d": "user", "/v1/user/devices?user=a&device=d&x=1": "x",
		"/v1/user/messages": "user", "/v1/user/messages?user=a&device=d": "device",
	} {
		h := newHarness(t, httpapi.Config{}, nil)
		a := h.doUnchecked("DELETE", target, "")
		if _, field, _ := a.problem(t); a.status != 400 || field != want || len(h.service.recorded()) != 0 {
			t.Errorf("%s answered %d: %s", target, a.status, a.body)
		}
	}
	for target, want := range map[string]string{
		"/v1/user": "user", "/v1/user?user=": "user", "/v1/room?room=a&x=1": "x", "/v1/room?limit=3": "room",
	} {
		h := newHarness(t, httpapi.Config{}, nil)
		a := h.do("GET", target, "")
		if _, field, _ := a.problem(t); a.status != 400 || field != want {
			t.Errorf("%s answered %d: %s", target, a.status, a.body)
		}
	}
}
