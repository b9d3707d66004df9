package httpapi_test

import (
	"slices"
	"strings"
	"testing"

	"imgo/envelope"
	"imgo/roles/logic/httpapi"
)

func TestHooks(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	const want = `{"hooks":[{"name":"orders","lag":3,"waiting":2,"waiting_since_ms":1700000000000,"dead_letters":1,"dead_total":4,` +
		`"letters":[{"event":"0-1.0","user":"1","tries":1,"reason":"the address answered 400","time_ms":1700000000001}],` +
		`"error":"the address answered 500"}]}` + "\n"
	if a := h.do("GET", "/v1/hooks", ""); a.status != 200 || a.body != want {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
	for _, call := range []struct {
		path, body, did string
		status          int
	}{
		{"/v1/hooks/orders/replay", `{"from_ms":1700000000000}`, "replay orders 1700000000000", 202},
		{"/v1/hooks/orders/retry", "", "retry orders", 202},
		{"/v1/hooks/orders/resume", "", "resume orders", 200},
	} {
		a := h.do("POST", call.path, call.body)
		if calls := h.service.recorded(); a.status != call.status || !slices.Contains(calls, call.did) {
			t.Errorf("%s %s answered %d: %s; it did %q", call.path, call.body, a.status, a.body, calls)
		}
	}
}

func TestHooksRefused(t *testing.T) {
	for body, field := range map[string]string{
		"": "", "{}": "from_ms", `{"from_ms":0}`: "from_ms", `{"from_ms":"now"}`: "from_ms",
		`{"dead_letters":true}`: "dead_letters", `{"from":1}`: "from", `[1]`: "",
	} {
		h := newHarness(t, httpapi.Config{}, nil)
		a := h.do("POST", "/v1/hooks/orders/replay", body)
		if _, got, _ := a.problem(t); a.status != 400 || got != field {
			t.Errorf("%s answered %d: %s", body, a.status, a.body)
		}
		if calls := h.service.recorded(); len(calls) > 0 {
			t.Errorf("%s: it did %q", body, calls)
		}
	}
	h := newHarness(t, httpapi.Config{}, nil)
	if a := h.do("POST", "/v1/hooks/orders%01/resume", ""); a.status != 400 {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
	h = newHarness(t, httpapi.Config{}, &fakeService{err: envelope.Errorf(envelope.CodeNotFound, "there is no hook")})
	if a := h.do("POST", "/v1/hooks/others/resume", ""); a.status != 404 || !strings.Contains(a.body, "there is no hook") {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
}
