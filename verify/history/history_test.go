package history_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"imgo/verify/history"
)

// good returns a history without violations. ann has two devices. One push is lost in the first
// session and arrives in the second. One push without an answer arrives and another does not. One
// push is repeated with its idempotency key.
func good() *history.History {
	h := history.New()
	h.Device("ann", "phone")
	h.Device("ann", "laptop")
	for n := range uint64(5) {
		h.Tried(n, "ann")
		if n != 2 && n != 4 {
			h.Accepted(n, "ann", 10+n)
		}
	}
	h.Accepted(3, "ann", 13)
	h.TriedLive(100)
	laptop := h.Session("ann", "laptop")
	for n := range uint64(4) {
		laptop.Got(10+n, n)
	}
	laptop.Got(0, 100)
	phone := h.Session("ann", "phone")
	phone.Got(10, 0)
	phone.Got(11, 1)
	phone = h.Session("ann", "phone")
	phone.Got(11, 1)
	phone.Got(12, 2)
	phone.Got(13, 3)
	phone.Got(0, 100)
	return h
}

func TestGood(t *testing.T) {
	h := good()
	if err := h.Verdict(); err != nil {
		t.Error(err)
	}
	want := history.Stats{Tried: 5, Accepted: 3, Sessions: 3, Received: 9, Repeated: 1, Live: 2}
	if got := h.Stats(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestJudgeFinds adds one fault at a time to the good history. The history must report exactly that
// fault.
func TestJudgeFinds(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*history.History)
		want  []history.Kind
	}{
		"lost": {func(h *history.History) {
			h.Tried(7, "ann")
			h.Accepted(7, "ann", 17)
			h.Session("ann", "phone").Got(17, 7) // the laptop never receives it
		}, []history.Kind{history.KindLost}},
		"lost where the answer came late": {func(h *history.History) {
			h.Tried(7, "ann")
			h.Session("ann", "laptop").Got(17, 7)
			h.Accepted(7, "ann", 17)
		}, []history.Kind{history.KindLost}},
		"twice in a session": {func(h *history.History) {
			s := h.Session("ann", "phone")
			s.Got(12, 2)
			s.Got(12, 2)
		}, []history.Kind{history.KindAgain}},
		"reordered in a session": {func(h *history.History) {
			s := h.Session("ann", "phone")
			s.Got(13, 3)
			s.Got(12, 2)
		}, []history.Kind{history.KindOrder}},
		"first seen out of order over two sessions": {func(h *history.History) {
			for n := uint64(7); n < 9; n++ {
				h.Tried(n, "ann")
			}
			h.Session("ann", "phone").Got(18, 8)
			h.Session("ann", "phone").Got(17, 7)
		}, []history.Kind{history.KindOrder}},
		"two ids on one device": {func(h *history.History) {
			s := h.Session("ann", "phone")
			s.Got(13, 3)
			s.Got(14, 3)
		}, []history.Kind{history.KindTwoIDs}},
		"two ids on two devices": {func(h *history.History) {
			h.Tried(7, "ann")
			h.Session("ann", "phone").Got(17, 7)
			h.Session("ann", "laptop").Got(18, 7)
		}, []history.Kind{history.KindTwoIDs}},
		"another id than the answer's": {func(h *history.History) {
			h.Session("ann", "phone").Got(14, 4)
			h.Accepted(4, "ann", 15)
		}, []history.Kind{history.KindTwoIDs}},
		"two answers": {func(h *history.History) {
			h.Accepted(1, "ann", 15)
		}, []history.Kind{history.KindTwoIDs}},
		"one id for two pushes": {func(h *history.History) {
			h.Session("ann", "phone").Got(13, 4)
		}, []history.Kind{history.KindMixed, history.KindOrder}},
		"an id below one that was answered before": {func(h *history.History) {
			h.Tried(7, "ann")
			h.Session("ann", "phone").Got(9, 7)
		}, []history.Kind{history.KindOrder, history.KindOrder}},
		"accepted without an id": {func(h *history.History) {
			h.Accepted(4, "ann", 0)
		}, []history.Kind{history.KindMixed}},
		"kept and without an id": {func(h *history.History) {
			h.Session("ann", "phone").Got(0, 3)
		}, []history.Kind{history.KindMixed}},
		"not kept and with an id": {func(h *history.History) {
			h.Session("ann", "phone").Got(20, 100)
		}, []history.Kind{history.KindMixed}},
		"not kept and twice in a session": {func(h *history.History) {
			s := h.Session("ann", "phone")
			s.Got(0, 100)
			s.Got(0, 100)
		}, []history.Kind{history.KindAgain}},
		"somebody else's": {func(h *history.History) {
			h.Session("bob", "phone").Got(11, 1)
		}, []history.Kind{history.KindStranger}},
		"somebody else's, not kept": {func(h *history.History) {
			h.TriedLive(101, "ann", "cleo")
			h.Session("ann", "phone").Got(0, 101)
			h.Session("bob", "phone").Got(0, 101)
		}, []history.Kind{history.KindStranger}},
		"nobody's": {func(h *history.History) {
			h.Session("ann", "phone").Got(99, 99)
		}, []history.Kind{history.KindStranger}},
		"accepted and never tried": {func(h *history.History) {
			h.Accepted(99, "ann", 99)
		}, []history.Kind{history.KindStranger}},
		"refused and delivered": {func(h *history.History) {
			h.Tried(7, "ann")
			h.Refused(7, "ann")
			h.Session("ann", "phone").Got(17, 7)
		}, []history.Kind{history.KindRefused}},
		"delivered and refused": {func(h *history.History) {
			h.Tried(7, "ann")
			h.Session("ann", "phone").Got(17, 7)
			h.Refused(7, "ann")
		}, []history.Kind{history.KindRefused}},
	} {
		t.Run(name, func(t *testing.T) {
			h := good()
			c.spoil(h)
			err := h.Verdict()
			var found history.Violations
			if !errors.As(err, &found) {
				t.Fatalf("the verdict is %v", err)
			}
			if len(found) != len(c.want) {
				t.Fatalf("found %v, want %v", err, c.want)
			}
			for i, v := range found {
				if v.Kind != c.want[i] {
					t.Errorf("found %s, want %s", v, c.want[i])
				}
			}
		})
	}
}

// A push covers a device only if it was sent after the device became known. A device may receive
// earlier pushes or not.
func TestDeviceThatComesLater(t *testing.T) {
	h := good()
	late := h.Session("ann", "watch")
	late.Got(12, 2)
	if err := h.Verdict(); err != nil {
		t.Error(err)
	}
	h.Tried(7, "ann")
	h.Accepted(7, "ann", 17)
	h.Session("ann", "phone").Got(17, 7)
	h.Session("ann", "laptop").Got(17, 7)
	if lost := h.Lost(0); len(lost) != 1 || lost[0].Device != "watch" {
		t.Errorf("lost: %v", lost)
	}
	late.Got(17, 7)
	if err := h.Verdict(); err != nil {
		t.Error(err)
	}
}

func TestLostIsBounded(t *testing.T) {
	h := history.New()
	h.Device("ann", "phone")
	for n := range uint64(50) {
		h.Tried(n, "ann", "bob")
		h.Accepted(n, "ann", n+1)
		h.Accepted(n, "bob", n+1) // bob has no device
	}
	if n := len(h.Lost(0)); n != 50 {
		t.Errorf("%d are lost", n)
	}
	if n := len(h.Lost(3)); n != 3 {
		t.Errorf("%d are lost, at most 3 were asked for", n)
	}
	text := h.Verdict().Error()
	if !strings.HasPrefix(text, "50 violations\n  I2: lost: push 0 to ann/phone, id 1") || strings.Count(text, "\n") != 11 {
		t.Errorf("the error is %q", text)
	}
}

// TestSideBySide calls all methods concurrently, for the race detector.
func TestSideBySide(t *testing.T) {
	h := history.New()
	var all sync.WaitGroup
	for _, device := range []string{"phone", "laptop"} {
		h.Device("ann", device)
	}
	next := make(chan uint64, 500)
	for n := range uint64(500) {
		h.Tried(n, "ann")
		next <- n
	}
	close(next)
	all.Go(func() {
		for n := range next {
			h.Accepted(n, "ann", n+1)
		}
	})
	for _, device := range []string{"phone", "laptop"} {
		all.Go(func() {
			s := h.Session("ann", device)
			for n := range uint64(500) {
				s.Got(n+1, n)
				h.Lost(1)
			}
		})
	}
	all.Wait()
	if err := h.Verdict(); err != nil {
		t.Error(err)
	}
}
