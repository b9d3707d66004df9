package httpapi_test

import (
	"net/http"
	"testing"

	"imgo/roles/logic/httpapi"
)

const console = "https://console.example"

// TestPreflights sends what browsers send before a page of another origin may call.
func TestPreflights(t *testing.T) {
	for name, keys := range map[string][]httpapi.Key{"without keys": nil, "with keys": twoKeys} {
		h := newHarness(t, httpapi.Config{Keys: keys, TrustedOrigins: []string{console}}, &fakeService{})
		for _, tt := range []struct {
			origin, path, method, headers string
			allowOrigin, allowMethods     string
		}{
			{console, "/v1/push", "POST", "authorization,content-type,idempotency-key", console, "POST"},
			{console, "/v1/rooms/lobby/users/ann", "PUT", "authorization", console, "DELETE, PUT"},
			{console, "/v1/users/ann", "DELETE", "x-api-key", console, "DELETE, GET"},
			{console, "/goim/push/mids", "POST", "content-type", console, "POST"},
			{"https://other.example", "/v1/nodes/best?transport=ws", "GET", "content-type", "*", "GET"},
			{console, "/v1/nodes/best?transport=ws", "GET", "x-api-key", "*", "GET"},
			{"null", "/v1/nodes/best?transport=ws", "GET", "content-type", "*", "GET"},
			{"https://other.example", "/v1/push", "POST", "content-type", "", ""},
			{"https://console.example.evil.example", "/v1/push", "POST", "content-type", "", ""},
			{"http://console.example", "/v1/push", "POST", "content-type", "", ""},
			{"null", "/v1/push", "POST", "content-type", "", ""},
			{console, "/v1/nothing", "POST", "content-type", console, ""},
		} {
			a := h.doUnchecked("OPTIONS", tt.path, "", "Origin: "+tt.origin, "Access-Control-Request-Method: "+tt.method,
				"Access-Control-Request-Headers: "+tt.headers, "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: cross-site",
				"Access-Control-Request-Private-Network: true")
			allowed := tt.allowMethods != ""
			if a.header.Get("Access-Control-Allow-Origin") != tt.allowOrigin || a.header.Get("Access-Control-Allow-Methods") != tt.allowMethods ||
				(a.status == http.StatusNoContent) != allowed || a.header.Get("Access-Control-Allow-Credentials") != "" ||
				(a.header.Get("Access-Control-Allow-Headers") == "Authorization, Content-Type, Idempotency-Key, X-API-Key") != allowed ||
				(a.header.Get("Access-Control-Allow-Private-Network") == "true") != allowed {
				t.Errorf("%s, %s of a page of %s is answered %d %v", name, tt.path, tt.origin, a.status, a.header)
			}
			if tt.allowOrigin == console && a.header.Get("Vary") != "Origin" {
				t.Errorf("%s, %s: a cache may give the answer to another page: %v", name, tt.path, a.header)
			}
		}
		// OPTIONS that is no preflight stays a method that no path has.
		if a := h.doUnchecked("OPTIONS", "/v1/nodes/best", "", "Origin: "+console); a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: OPTIONS is answered %d", name, a.status)
		}
	}
}

// TestTrustedPagesReadAnswers checks that a page of a trusted origin reads answers and errors, and others neither.
func TestTrustedPagesReadAnswers(t *testing.T) {
	for name, keys := range map[string][]httpapi.Key{"without keys": nil, "with keys": twoKeys} {
		h := newHarness(t, httpapi.Config{Keys: keys, TrustedOrigins: []string{console}}, &fakeService{})
		key := "X-API-Key: " + twoKeys[0].Key
		for _, tt := range []struct {
			what, origin string
			headers      []string
			allow        string
		}{
			{"a trusted page", console, []string{key}, console},
			{"a trusted page with a wrong key", console, []string{"X-API-Key: wrong"}, console},
			{"another page", "https://other.example", []string{key}, ""},
		} {
			a := h.doUnchecked("GET", "/v1/stats", "", append(tt.headers, "Origin: "+tt.origin, "Sec-Fetch-Site: cross-site")...)
			if got := a.header.Get("Access-Control-Allow-Origin"); got != tt.allow {
				t.Errorf("%s, %s: allowed for %q, answered %d", name, tt.what, got, a.status)
			}
		}
		if a := h.doUnchecked("GET", "/v1/stats", "", key); a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("Vary") != "" {
			t.Errorf("%s: a program is answered %v", name, a.header)
		}
	}
}
