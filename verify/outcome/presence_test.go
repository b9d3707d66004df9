package outcome_test

import (
	"slices"
	"testing"

	"imgo/internal/events"
	"imgo/verify/history"
	"imgo/verify/outcome"
)

func message(device string, id uint64) func(*outcome.Event) {
	return func(e *outcome.Event) { e.Data.Device, e.Data.ClientID, e.Data.ID = device, id, 0 }
}

// seen tells that ann came, went and came, and of two messages that her phone sent.
func seen() *story {
	s := begin()
	for _, t := range []events.Type{events.Online, events.Offline, events.Online} {
		s.notifyBoth(t, "ann", 0)
	}
	for id := uint64(1); id <= 2; id++ {
		s.Publishing("ann", "phone", id)
		s.notifyBoth(events.Upstream, "ann", 0, message("phone", id))
		s.Published("ann", "phone", id)
	}
	s.Publishing("ann", "phone", 3) // not answered
	return s
}

// TestPresenceAndUpstream adds one fault at a time to a good story. The judge must find exactly that fault.
func TestPresenceAndUpstream(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*story)
		want  []history.Kind
	}{
		"nothing":       {func(*story) {}, nil},
		"no answer yet": {func(s *story) { s.notifyBoth(events.Upstream, "ann", 0, message("phone", 3)) }, nil},
		"away at the end": {func(s *story) {
			s.notify(hook, events.Offline, "ann", 0)
		}, []history.Kind{outcome.KindPresence}},
		"somebody is here in silence": {func(s *story) {
			s.notifyBoth(events.Online, "bob", 0)
		}, []history.Kind{outcome.KindPresence, outcome.KindPresence}},
		"came twice": {func(s *story) {
			s.notify(hook, events.Online, "ann", 0)
		}, []history.Kind{outcome.KindPresence}},
		"went before coming": {func(s *story) {
			s.notify(hook, events.Offline, "bob", 0)
		}, []history.Kind{outcome.KindPresence}},
		"twice": {func(s *story) {
			s.notify(hook, events.Upstream, "ann", 0, message("phone", 2))
		}, []history.Kind{outcome.KindTwice}},
		"left out": {func(s *story) {
			s.Publishing("ann", "laptop", 2)
			s.Published("ann", "laptop", 2)
			s.notify(hook, events.Upstream, "ann", 0, message("laptop", 1))
			s.notify(hook, events.Upstream, "ann", 0, message("laptop", 2))
			s.notify(follower, events.Upstream, "ann", 0, message("laptop", 2))
		}, []history.Kind{outcome.KindMissing}},
		"not told": {func(s *story) {
			s.notify(hook, events.Upstream, "ann", 0, message("phone", 3))
			s.Published("ann", "phone", 3)
		}, []history.Kind{outcome.KindMissing}},
		"never sent": {func(s *story) {
			s.notify(hook, events.Upstream, "ann", 0, message("phone", 4))
		}, []history.Kind{outcome.KindInvented}},
		"of no device": {func(s *story) {
			s.notify(hook, events.Upstream, "ann", 0, message("watch", 1))
		}, []history.Kind{outcome.KindInvented}},
		"without an id": {func(s *story) {
			s.notify(hook, events.Upstream, "ann", 0, message("phone", 0))
		}, []history.Kind{outcome.KindInvented}},
	} {
		t.Run(name, func(t *testing.T) {
			s := seen()
			c.spoil(s)
			if unpublished := s.Unpublished(); (unpublished > 0) != (name == "not told") {
				t.Errorf("%d devices have messages that were not told", unpublished)
			}
			all := slices.Concat(s.found, s.Missing(), s.Absent(func(user string) bool { return user == "ann" }))
			var found []history.Kind
			for _, v := range all {
				if found = append(found, v.Kind); v.User == "" || v.Detail == "" {
					t.Errorf("%+v does not say what is wrong", v)
				}
			}
			if !slices.Equal(found, c.want) {
				t.Errorf("found %q, want %q: %v", found, c.want, all)
			}
		})
	}
}
