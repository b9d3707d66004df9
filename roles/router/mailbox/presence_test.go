package mailbox_test

import (
	"testing"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router/mailbox"
)

// Each change of what was told has one event. A record that is applied again, or repeats what was told, has none.
func TestPresence(t *testing.T) {
	m := mailbox.New("u")
	p := m.Presence()
	for i, c := range []struct {
		id     uint64
		rec    *envelope.Presence
		online bool
		event  events.Type
	}{
		{5, &envelope.Presence{User: "u", Device: "d", Online: false}, false, ""}, // it is not known to be online
		{6, &envelope.Presence{User: "u", Device: "d", Online: true}, true, events.Online},
		{6, &envelope.Presence{User: "u", Device: "d", Online: false}, true, ""},
		{7, &envelope.Presence{User: "u", Device: "d", Online: true}, true, ""},
		{8, &envelope.Presence{User: "u", Device: "d", Online: false}, false, events.Offline},
		{9, &envelope.Presence{User: "u", Online: true, At: 6}, false, ""}, // a repetition of what is older
		{9, &envelope.Presence{User: "u", Online: true, At: 9}, true, ""},
	} {
		var out mailbox.Events
		p.Set(c.id, c.rec, 1, &out)
		if p.Online() != c.online || len(out) > 1 || (len(out) == 1) != (c.event != "") {
			t.Errorf("%d: online %v, told %+v", i, p.Online(), out)
		} else if len(out) == 1 && (out[0].Type != c.event || out[0].User != "u" || out[0].Device != "d") {
			t.Errorf("%d: told %+v", i, out[0])
		}
	}
}
