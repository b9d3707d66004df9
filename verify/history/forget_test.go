package history_test

import (
	"testing"

	"imgo/verify/history"
)

// long returns a history with far more pushes than it remembers. The laptop of ann receives every
// push. Her phone receives all but the push number missed. One push in ten has no answer and
// arrives all the same.
func long(missed uint64) (h *history.History, laptop, phone *history.Session) {
	h = history.New()
	h.Forget(10)
	laptop, phone = h.Session("ann", "laptop"), h.Session("ann", "phone")
	for n := uint64(1); n <= 1000; n++ {
		h.Tried(n, "ann")
		if n%10 != 5 {
			h.Accepted(n, "ann", 10_000+n)
		}
		laptop.Got(10_000+n, n)
		if n != missed {
			phone.Got(10_000+n, n)
		}
		h.TriedLive(1_000_000+n, "ann")
		laptop.Got(0, 1_000_000+n)
	}
	return h, laptop, phone
}

// TestForgets checks which violations the history still finds for pushes that it has forgotten.
func TestForgets(t *testing.T) {
	for name, c := range map[string]struct {
		missed uint64
		then   func(h *history.History, laptop, phone *history.Session)
		want   []history.Kind
	}{
		"all is well":   {0, func(*history.History, *history.Session, *history.Session) {}, nil},
		"lost long ago": {17, func(*history.History, *history.Session, *history.Session) {}, []history.Kind{history.KindLost}},
		"comes after all": {17, func(h *history.History, _, _ *history.Session) { h.Session("ann", "phone").Got(10_017, 17) },
			[]history.Kind{history.KindOrder}},
		"an answer long after":   {0, func(h *history.History, _, _ *history.Session) { h.Accepted(5, "ann", 10_005) }, nil},
		"again in a new session": {0, func(h *history.History, _, _ *history.Session) { h.Session("ann", "phone").Got(10_003, 3) }, nil},
		"twice in a new session": {0, func(h *history.History, _, _ *history.Session) {
			s := h.Session("ann", "phone")
			s.Got(10_003, 3)
			s.Got(10_003, 3)
		}, []history.Kind{history.KindAgain}},
		"again in the session": {0, func(_ *history.History, laptop, _ *history.Session) { laptop.Got(10_003, 3) },
			[]history.Kind{history.KindOrder}},
		"again in the session, soon": {0, func(_ *history.History, laptop, _ *history.Session) { laptop.Got(10_999, 999) },
			[]history.Kind{history.KindAgain}},
		"a stranger": {0, func(_ *history.History, laptop, _ *history.Session) { laptop.Got(20_000, 20_000) },
			[]history.Kind{history.KindStranger}},
		"not kept, twice": {0, func(_ *history.History, laptop, _ *history.Session) { laptop.Got(0, 1_001_000) },
			[]history.Kind{history.KindAgain}},
		"a device that comes late": {0, func(h *history.History, laptop, phone *history.Session) {
			tablet := h.Session("ann", "tablet")
			for n := uint64(1001); n <= 1100; n++ {
				h.Tried(n, "ann")
				h.Accepted(n, "ann", 10_000+n)
				laptop.Got(10_000+n, n)
				phone.Got(10_000+n, n)
				if n != 1007 {
					tablet.Got(10_000+n, n)
				}
			}
		}, []history.Kind{history.KindLost}},
	} {
		t.Run(name, func(t *testing.T) {
			h, laptop, phone := long(c.missed)
			c.then(h, laptop, phone)
			var found []history.Kind
			for _, v := range append(h.Violations(), h.Lost(0)...) {
				found = append(found, v.Kind)
			}
			if len(found) != len(c.want) {
				t.Fatalf("found %v, want %v", found, c.want)
			}
			for i, kind := range found {
				if kind != c.want[i] {
					t.Errorf("found %v, want %v", found, c.want)
				}
			}
			if got := h.Stats(); got.Tried < 1000 || got.Received < 1999 {
				t.Errorf("the counters lost events: %+v", got)
			}
		})
	}
}
