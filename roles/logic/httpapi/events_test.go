package httpapi_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"imgo/internal/events"
	"imgo/roles/logic/httpapi"
)

// TestCallsForTheEndAreBounded checks that a call that looks for the end of the topic needs a place, as one that waits
// does: it reads the tail of each partition.
func TestCallsForTheEndAreBounded(t *testing.T) {
	const places = 256
	var seen atomic.Int32
	arrived, release := make(chan struct{}), make(chan struct{})
	h := newHarness(t, httpapi.Config{}, &fakeService{page: func(_ context.Context, q events.Query) (*events.Page, error) {
		if q.Now && seen.Add(1) <= places {
			arrived <- struct{}{}
			<-release
		}
		return &events.Page{Next: events.Cursor{Generation: 1}}, nil
	}})
	var calls sync.WaitGroup
	for range places {
		calls.Go(func() {
			if a := h.do("GET", "/v1/events?after=now", ""); a.status != 200 {
				t.Errorf("answered %d: %s", a.status, a.body)
			}
		})
		<-arrived
	}
	for target, want := range map[string]int{"?after=now": 503, "?wait=1s": 503, "": 200} {
		if a := h.do("GET", "/v1/events"+target, ""); a.status != want {
			t.Errorf("%q answered %d: %s", target, a.status, a.body)
		}
	}
	close(release)
	calls.Wait()
	if a := h.do("GET", "/v1/events?wait=1s", ""); a.status != 200 {
		t.Errorf("afterwards answered %d: %s", a.status, a.body)
	}
}
