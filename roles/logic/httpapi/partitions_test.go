package httpapi_test

import (
	"testing"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

func TestPartitions(t *testing.T) {
	service := &fakeService{partitions: logic.Partitions{Kept: 16, Generation: 2, Next: 32, Moved: 5, SinceMS: 1700000000000}}
	h := newHarness(t, httpapi.Config{}, service)
	const want = `{"kept":16,"generation":2,"next":32,"moved":5,"since_ms":1700000000000}` + "\n"
	if a := h.do("GET", "/v1/partitions", ""); a.status != 200 || a.body != want {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
	if a := h.do("POST", "/v1/partitions", `{"kept":32}`); a.status != 202 || a.body != want {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
	h = newHarness(t, httpapi.Config{}, nil)
	if a := h.do("GET", "/v1/partitions", ""); a.body != `{"kept":16,"generation":1}`+"\n" {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
}

// TestGrowRefused checks that an invalid number of partitions is refused before the service is called.
// A refusal by the cluster is passed on unchanged.
func TestGrowRefused(t *testing.T) {
	for body, field := range map[string]string{
		"": "", "{}": "kept", `{"kept":"32"}`: "kept", `{"kept":0}`: "kept", `{"kept":-1}`: "kept", `{"kept":1.5}`: "kept",
		`{"kept":99999999999}`: "kept", `{"kept":2,"kept":3}`: "kept", `{"live":3}`: "live", `[32]`: "", `{"kept":32} x`: "",
	} {
		h := newHarness(t, httpapi.Config{}, nil)
		a := h.do("POST", "/v1/partitions", body)
		if _, got, _ := a.problem(t); a.status != 400 || got != field {
			t.Errorf("%s answered %d: %s", body, a.status, a.body)
		}
		if calls := h.service.recorded(); len(calls) > 0 {
			t.Errorf("%s: it did %q", body, calls)
		}
	}
	h := newHarness(t, httpapi.Config{}, &fakeService{err: envelope.Invalid("kept", "is 3, and there are 16")})
	a := h.do("POST", "/v1/partitions", `{"kept":3}`)
	if code, field, message := a.problem(t); a.status != 400 || code != "invalid" || field != "kept" ||
		message != "kept is 3, and there are 16" {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
}
