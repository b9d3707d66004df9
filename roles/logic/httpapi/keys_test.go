package httpapi_test

import (
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/roles/logic/httpapi"
)

var twoKeys = []httpapi.Key{{Name: "backend", Key: "key-of-backend"}, {Name: "ops", Key: "key-of-ops"}}

// TestKeys checks that all three APIs use the same keys, and that each refuses in its own format.
func TestKeys(t *testing.T) {
	refused := map[string]string{
		"/v1/push":        `"code":"unauthorized"`,
		"/1/push?uid=1":   `{"ret":65533}`,
		"/goim/push/mids": `{"code":-400,"message":"Authorization `,
	}
	for _, tt := range []struct {
		name    string
		headers []string
		in      bool
	}{
		{"none", nil, false},
		{"bearer", []string{"Authorization: Bearer key-of-backend"}, true},
		{"bearer of another", []string{"Authorization: Bearer key-of-ops"}, true},
		{"bearer in lower case", []string{"Authorization: bearer key-of-backend"}, true},
		{"header", []string{"X-API-Key: key-of-ops"}, true},
		{"wrong", []string{"Authorization: Bearer key-of-nobody"}, false},
		{"wrong header", []string{"X-API-Key: key-of-nobody"}, false},
		{"empty bearer", []string{"Authorization: Bearer "}, false},
		{"no scheme", []string{"Authorization: key-of-backend"}, false},
		{"basic", []string{"Authorization: Basic a2V5LW9mLWJhY2tlbmQ="}, false},
		{"prefix of a key", []string{"X-API-Key: key-of-backen"}, false},
		{"key and more", []string{"X-API-Key: key-of-backendx"}, false},
		{"both", []string{"X-API-Key: key-of-ops", "Authorization: Bearer key-of-ops"}, false},
	} {
		for path, words := range refused {
			t.Run(tt.name+path, func(t *testing.T) {
				h := newHarness(t, httpapi.Config{Keys: twoKeys}, nil)
				a := h.do("POST", path, `{"user":"a","body":1}`, tt.headers...)
				switch {
				case tt.in && a.status >= 300:
					t.Errorf("answered %d: %s", a.status, a.body)
				case !tt.in && (a.status != 401 || !strings.Contains(a.body, words)):
					t.Errorf("answered %d: %s", a.status, a.body)
				case !tt.in && len(h.service.recorded()) > 0:
					t.Errorf("without a key it did %q", h.service.recorded())
				case !tt.in && strings.HasPrefix(path, "/v1/") && a.header.Get("WWW-Authenticate") != "Bearer":
					t.Error("401 without WWW-Authenticate")
				}
			})
		}
	}
}

// TestAncestorBug17_NoHTTPAuthentication checks that with keys set, the old APIs do nothing for a
// caller without a key, on any path and with any method.
func TestAncestorBug17_NoHTTPAuthentication(t *testing.T) {
	h := newHarness(t, httpapi.Config{Keys: twoKeys}, nil)
	for _, path := range []string{
		"/1/push?uid=1", "/1/pushs", "/1/push/room?rid=1", "/1/push/all", "/1/count?type=room", "/1/server/del?server=1",
		"/1/admin/token/new?uid=1&token=t&expire=9", "/1/msg/get?uid=1&mid=0&token=t",
		"/goim/push/keys?operation=5&keys=k", "/goim/push/mids?operation=5&mids=1", "/goim/push/room?operation=5&type=a&room=b",
		"/goim/push/all?operation=5", "/goim/online/top?type=a&limit=1", "/goim/online/room?type=a&rooms=1",
		"/goim/online/total", "/goim/nodes/weighted", "/goim/nodes/instances",
	} {
		for _, method := range []string{"GET", "POST", "HEAD", "DELETE"} {
			if a := h.do(method, path, ""); a.status != 401 {
				t.Errorf("%s %s without a key answered %d: %s", method, path, a.status, a.body)
			}
		}
	}
	if calls := h.service.recorded(); len(calls) > 0 {
		t.Errorf("without a key it did %q", calls)
	}
}

func TestKeyRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, httpapi.Config{Keys: []httpapi.Key{
			{Name: "slow", Key: "s", Rate: 0.5, Burst: 2}, {Name: "free", Key: "f"},
		}}, nil)
		ask := func(path, key string) answer {
			return h.doUnchecked("POST", path, `{"user":"a","body":1}`, "X-API-Key: "+key)
		}
		for i, want := range []int{202, 202, 429, 429} {
			if a := ask("/v1/push", "s"); a.status != want {
				t.Errorf("request %d answered %d: %s", i, a.status, a.body)
			}
		}
		a := ask("/v1/push", "s")
		if code, _, _ := a.problem(t); code != "rate_limited" || a.header.Get("Retry-After") != "2" {
			t.Errorf("answered %q, Retry-After %q", a.body, a.header.Get("Retry-After"))
		}
		if a := ask("/1/push?uid=1", "s"); a.status != 429 || a.body != `{"ret":65535}` || a.header.Get("Retry-After") != "2" {
			t.Errorf("/1 answered %d %q", a.status, a.body)
		}
		if a := ask("/goim/push/mids?mids=1&operation=5", "s"); a.status != 429 || !strings.HasPrefix(a.body, `{"code":-500,"message":"`) {
			t.Errorf("/goim answered %d %q", a.status, a.body)
		}
		for range 100 {
			if a := ask("/v1/push", "f"); a.status != 202 {
				t.Fatalf("a key without a rate was answered %d", a.status)
			}
		}
		time.Sleep(2 * time.Second) // Retry-After asked for this pause before the next request.
		if a, b := ask("/v1/push", "s"), ask("/v1/push", "s"); a.status != 202 || b.status != 429 {
			t.Errorf("after Retry-After: %d, then %d", a.status, b.status)
		}
		// Requests with a wrong key do not reduce the rate of a valid key.
		if a := ask("/v1/push", "x"); a.status != 401 {
			t.Errorf("a wrong key was answered %d", a.status)
		}
	})
}

// TestNoKeys checks that without keys everybody may call, except pages of other sites in a developer's
// browser.
func TestNoKeys(t *testing.T) {
	h := newHarness(t, httpapi.Config{TrustedOrigins: []string{"https://console.example", "https://Bücher.example:443"}}, nil)
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"a program", nil, 202},
		{"a program that sends a key", []string{"X-API-Key: any"}, 202},
		{"its own page", []string{"Sec-Fetch-Site: same-origin", "Origin: http://127.0.0.1:7172"}, 202},
		{"another site's page", []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, 403},
		{"another site's page in an old browser", []string{"Origin: https://evil.example"}, 403},
		{"another port's page", []string{"Sec-Fetch-Site: same-site", "Origin: http://127.0.0.1:8090"}, 403},
		{"a trusted page", []string{"Sec-Fetch-Site: cross-site", "Origin: https://console.example"}, 202},
		{"a trusted page with other letters", []string{"Sec-Fetch-Site: cross-site", "Origin: https://xn--bcher-kva.example"}, 202},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(h.service.recorded())
			a := h.do("POST", "/v1/push", `{"user":"a","body":1}`, tt.headers...)
			if a.status != tt.status {
				t.Errorf("answered %d: %s", a.status, a.body)
			}
			if done := len(h.service.recorded()) > before; done != (tt.status == 202) {
				t.Errorf("answered %d, done: %v", a.status, done)
			}
		})
	}
	if a := h.do("POST", "/1/push?uid=1", "x", "Sec-Fetch-Site: cross-site"); a.status != 403 || a.body != `{"ret":65533}` {
		t.Errorf("/1 answered %d %q", a.status, a.body)
	}
	if a := h.do("GET", "/v1/rooms", "", "Sec-Fetch-Site: cross-site"); a.status != 200 {
		t.Errorf("a read was answered %d; the browser itself keeps it from the page", a.status)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  httpapi.Config
		want string
	}{
		{"a key without a name", httpapi.Config{Keys: []httpapi.Key{{Key: "k"}}}, "name must not be empty"},
		{"a slash in a name", httpapi.Config{Keys: []httpapi.Key{{Name: "a/b", Key: "k"}}}, "slash"},
		{"one name twice", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k"}, {Name: "a", Key: "l"}}}, "twice"},
		{"one key twice", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k"}, {Name: "b", Key: "k"}}}, `same as "a"'s`},
		{"an empty key", httpapi.Config{Keys: []httpapi.Key{{Name: "a"}}}, "key must not be empty"},
		{"a key with spaces around it", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: " k"}}}, "space"},
		{"a negative rate", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k", Rate: -1}}}, "rate"},
		{"a scope that is none", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k", Scopes: []string{"write"}}}}, `"write"`},
		{"the scope open", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k", Scopes: []string{"open"}}}}, `"open"`},
		{"patterns without scopes", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k", Users: []string{"a"}}}}, "no scopes"},
		{"an admin with patterns", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k", Scopes: []string{"admin"}, Rooms: []string{"a"}}}},
			"admin"},
		{"an empty pattern", httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "k", Scopes: []string{"push"}, Rooms: []string{""}}}},
			"pattern"},
		{"an origin that is none", httpapi.Config{TrustedOrigins: []string{"example"}}, "origin"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := httpapi.New(withDefaults(tt.cfg), &fakeService{}, zerolog.Nop(), prometheus.NewRegistry())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	if _, err := httpapi.New(httpapi.DefaultConfig(), nil, zerolog.Nop(), prometheus.NewRegistry()); err == nil {
		t.Error("made an API without a service")
	}
	reg := prometheus.NewRegistry()
	if _, err := httpapi.New(httpapi.DefaultConfig(), &fakeService{}, zerolog.Nop(), reg); err != nil {
		t.Fatal(err)
	}
	if _, err := httpapi.New(httpapi.DefaultConfig(), &fakeService{}, zerolog.Nop(), reg); err == nil {
		t.Error("registered the metrics twice")
	}
}

func TestMetricsAndAccessLog(t *testing.T) {
	h := newHarness(t, httpapi.Config{Keys: twoKeys}, nil)
	h.do("POST", "/v1/push", `{"user":"a","body":1}`, "X-API-Key: key-of-backend")
	h.do("POST", "/v1/push", `{"user":"a","made_up_name":1}`, "X-API-Key: key-of-backend")
	h.do("POST", "/v1/push", `{"users":["a",1]}`, "X-API-Key: key-of-backend")
	h.do("POST", "/v1/push", `{}`)
	h.do("GET", "/v1/made/up", "")
	h.do("GET", "/v1/users/alice", "", "X-API-Key: key-of-ops")
	h.do("POST", "/1/push?uid=-1", "x", "X-API-Key: key-of-ops")
	want := map[string]float64{
		"imgo_logic_http_requests_total route=/1/push status=200":              1,
		"imgo_logic_http_requests_total route=/v1/push status=202":             1,
		"imgo_logic_http_requests_total route=/v1/push status=400":             2,
		"imgo_logic_http_requests_total route=/v1/push status=401":             1,
		"imgo_logic_http_requests_total route=/v1/users/{user} status=200":     1,
		"imgo_logic_http_requests_total route=other status=404":                1,
		"imgo_logic_http_problems_total code=invalid field=other":              1,
		"imgo_logic_http_problems_total code=invalid field=uid":                1,
		"imgo_logic_http_problems_total code=invalid field=users":              1,
		"imgo_logic_http_problems_total code=not_found field=none":             1,
		"imgo_logic_http_problems_total code=unauthorized field=Authorization": 1,
		"imgo_logic_http_callers_total key=backend outcome=allowed":            3,
		"imgo_logic_http_callers_total key=ops outcome=allowed":                2,
		"imgo_logic_http_callers_total key=unknown outcome=unauthorized":       1,
		"imgo_logic_http_seconds route=/v1/push":                               4,
		"imgo_logic_http_seconds route=/1/push":                                1,
		"imgo_logic_http_seconds route=/v1/users/{user}":                       1,
		"imgo_logic_http_seconds route=other":                                  1,
	}
	if got := counted(t, h.reg); !maps.Equal(got, want) {
		t.Errorf("counted %v\nwant %v", got, want)
	}
	logged := h.logged.String()
	if !strings.Contains(logged, `"level":"debug"`) || !strings.Contains(logged, `"key":"backend"`) {
		t.Errorf("the access log lacks the caller: %s", logged)
	}
	if strings.Contains(logged, "key-of-") {
		t.Errorf("an API key is in the log: %s", logged)
	}
}

// counted returns the values of all counters and the sample counts of all histograms.
func counted(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			all[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

// TestWrongKeysAreThrottled checks that an address that guesses keys gets 429, and that a caller with a
// good key at the same address does not notice.
func TestWrongKeysAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, httpapi.Config{Keys: twoKeys}, nil)
		statuses := map[int]int{}
		for range 100 {
			statuses[h.doUnchecked("GET", "/v1/stats", "", "X-API-Key: guess").status]++
		}
		if statuses[401] != 20 || statuses[429] != 80 {
			t.Errorf("answered %v", statuses)
		}
		if a := h.doUnchecked("GET", "/v1/stats", "", "X-API-Key: guess"); a.status != 429 || a.header.Get("Retry-After") != "2" {
			t.Errorf("answered %d, Retry-After %q", a.status, a.header.Get("Retry-After"))
		}
		if a := h.doUnchecked("GET", "/v1/stats", ""); a.status != 401 {
			t.Errorf("a request without a key, which is no guess, was answered %d", a.status)
		}
		if a := h.doUnchecked("GET", "/v1/stats", "", "X-API-Key: key-of-ops"); a.status != 200 {
			t.Errorf("a good key was answered %d: %s", a.status, a.body)
		}
		time.Sleep(2 * time.Second)
		if a := h.doUnchecked("GET", "/v1/stats", "", "X-API-Key: guess"); a.status != 401 {
			t.Errorf("after Retry-After: %d", a.status)
		}
	})
}
