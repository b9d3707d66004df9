package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"imgo/config"
	"imgo/roles/job/hooks"
	"imgo/roles/logic/httpapi"
)

const shopKey = "X-API-Key: 0123456789abcdef"

// explain returns the texts of the explanation of a message, with their kinds.
func (n *node) explain(t *testing.T, user, id string) string {
	t.Helper()
	var x struct {
		Steps   []struct{ Kind, Text string }
		Unknown []string
	}
	n.call(t, "GET", "/v1/users/"+user+"/messages/"+id+"/explain", "", shopKey).decode(t, &x)
	var lines []string
	for _, s := range x.Steps {
		lines = append(lines, s.Kind+": "+s.Text)
	}
	return strings.Join(append(lines, x.Unknown...), "\n")
}

// wantInOrder fails the test unless the text has all parts in this order.
func wantInOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			t.Errorf("%q is not there, or not in its place:\n%s", part, text)
			return
		}
		rest = after
	}
}

func TestExplain(t *testing.T) {
	r := newHookReceiver(t)
	n := start(t, func(cfg *config.Config) {
		cfg.Hooks = []hooks.Config{{
			Name: "orders", URL: r.URL, Secrets: []string{hookSecret}, Timeout: 5 * time.Second, Batch: 1, RetryFor: time.Hour,
		}}
		cfg.HTTP.Keys = []httpapi.Key{{Name: "shop", Key: "0123456789abcdef"}}
	})
	push := func(more string) string {
		t.Helper()
		var p struct{ ID string }
		n.call(t, "POST", "/v1/push", `{"user":"alice","body":"hello"`+more+`}`, shopKey).decode(t, &p)
		return p.ID
	}
	c := n.tcp(t)
	c.login("v2", "alice", `,"ack":true,"device":"phone"`)
	r.answer(http.StatusBadRequest)
	id := push(`,"ref":"order-1","report":"each","deadline":"1h"`)
	c.ack(c.expect(5, `"hello"`).ID)
	eventually(t, "a dead letter", func() bool {
		return strings.Contains(n.call(t, "GET", "/v1/hooks", "", shopKey).body, `"dead_letters":2`)
	})
	wantInOrder(t, n.explain(t, "alice", id),
		`accepted: the push was accepted from the API key "shop": 7 bytes, operation 5; it lives until `,
		`accepted: it asked for the report each, and called itself "order-1", with a deadline at `,
		`acknowledged: device "phone" acknowledged it, `, "event: event message.delivered, ",
		`hook: hook "orders" has set it aside: the address answered 400`, "event: event message.settled, ",
		"now: no device waits for the message")

	// A message that waits.
	id = push("")
	c.expect(5, `"hello"`)
	wantInOrder(t, n.explain(t, "alice", id), "it asked for no report", `now: it waits for device "phone", which is connected since `)
	_ = c.Close()
	eventually(t, "the end of the session", func() bool {
		return strings.Contains(n.explain(t, "alice", id), "is not connected and was seen last at")
	})
	var u struct{ ID string }
	n.call(t, "POST", "/v1/push", `{"user":"bob","body":1}`, shopKey).decode(t, &u)
	wantInOrder(t, n.explain(t, "bob", u.ID), "now: it waits for the first device of the user")

	// What happens to it afterwards.
	n.call(t, "DELETE", "/v1/users/alice/messages", "", shopKey).want(t, 200)
	wantInOrder(t, n.explain(t, "alice", id), "removed: a caller of the API dropped all messages", "now: no device waits")

	for _, wrong := range []struct{ user, id, says string }{
		{"bob", id, "there is no message"}, {"alice", "18446744073709551615", "ends before it"},
		{"alice", "7", "ids begin"}, {"alice", "x", "must be the id"},
		{"alice", fmt.Sprint(uint64(1)<<48 + 1<<47), "ends before it"},
	} {
		a, err := n.try("GET", "/v1/users/"+wrong.user+"/messages/"+wrong.id+"/explain", nil, shopKey)
		var problem struct{ Error struct{ Message string } }
		if err == nil {
			err = json.Unmarshal([]byte(a.body), &problem)
		}
		if err != nil || a.status/100 != 4 || !strings.Contains(problem.Error.Message, wrong.says) {
			t.Errorf("%s of %s answered %d: %s (%v)", wrong.id, wrong.user, a.status, a.body, err)
		}
	}
}
