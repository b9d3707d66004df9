package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/config"
	"imgo/protocol"
)

// removed is the answer of a DELETE below /v1/users.
type removed struct {
	Messages, Devices, Tokens, Sessions int
	LogUntilMS                          int64 `json:"log_until_ms"`
}

func (n *node) remove(t *testing.T, path string) (r removed) {
	t.Helper()
	a := n.call(t, "DELETE", "/v1/users/"+path, "")
	a.want(t, 200)
	a.decode(t, &r)
	until := time.Now().Add(n.cfg.Kept.Retention)
	if at := time.UnixMilli(r.LogUntilMS); at.After(until) || at.Before(until.Add(-waitLimit)) {
		t.Errorf("%s: the log holds it until %s, want %s", path, at, until)
	}
	r.LogUntilMS = 0
	return r
}

// A caller can forget a device, drop what waits, and erase a user.
func TestRemove(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Auth.Mode = "token" })
	token := func() {
		n.call(t, "POST", "/v1/tokens", `{"user":"alice","token":"of alice"}`).want(t, 201)
	}
	n.call(t, "GET", "/v1/users/alice/tokens", "").is(t, 200, `{"tokens":[],"user":"alice"}`)
	token()
	var list struct {
		Tokens []map[string]int64
	}
	n.call(t, "GET", "/v1/users/alice/tokens", "").decode(t, &list)
	if len(list.Tokens) != 1 || len(list.Tokens[0]) != 2 || list.Tokens[0]["created_ms"] == 0 {
		t.Errorf("tokens %v", list.Tokens)
	}
	phone, laptop := n.tcp(t), n.tcp(t)
	phone.login("v2", "of alice", `,"device":"phone","ack":true`)
	laptop.login("v2", "of alice", `,"device":"lap/top","ack":true`)
	for i := range 3 {
		n.push(t, "alice", fmt.Sprint(i))
		phone.expect(protocol.OpMessage, fmt.Sprint(i))
		laptop.expect(protocol.OpMessage, fmt.Sprint(i))
	}

	n.call(t, "DELETE", "/v1/users/alice/devices/tablet", "").want(t, 404, `"not_found"`)
	n.call(t, "DELETE", "/v1/users/alice/devices/", "").want(t, 404)
	if got, want := n.remove(t, "alice/devices/lap%2Ftop"), (removed{Messages: 3, Devices: 1, Sessions: 1}); got != want {
		t.Errorf("forget: %+v", got)
	}
	laptop.closedWith(3506, "the device was forgotten")
	eventually(t, "nothing is known of the device", func() bool {
		a := n.call(t, "GET", "/v1/users/alice", "")
		a.want(t, 200, `"pending":3,"oldest_id"`)
		return !strings.Contains(a.body, "lap/top")
	})
	if got, want := n.remove(t, "alice/messages"), (removed{Messages: 3}); got != want {
		t.Errorf("purge: %+v", got)
	}
	n.call(t, "GET", "/v1/users/alice", "").want(t, 200, `"pending":0,`, `"device":"phone"`)
	n.push(t, "alice", `"after"`)
	phone.expect(protocol.OpMessage, `"after"`)

	key := `{"user":"alice","body":1,"idempotency_key":"k"}`
	n.call(t, "POST", "/v1/push", key).want(t, 202, `"duplicate":false`)
	n.call(t, "POST", "/v1/push", key).want(t, 202, `"duplicate":true`)
	if got, want := n.remove(t, "alice"), (removed{Messages: 2, Devices: 1, Tokens: 1, Sessions: 1}); got != want {
		t.Errorf("erase: %+v", got)
	}
	phone.expect(protocol.OpMessage, "1")
	phone.closedWith(3503, "the user was erased")
	nothing := `{"user":"alice","online":false,"sessions":[],"devices":[],` +
		`"pending":0,"oldest_id":"0","newest_id":"0","dropped":0,"last_seen_ms":0,"since_ms":0}`
	eventually(t, "nothing is known of the user", func() bool {
		return strings.TrimSpace(n.call(t, "GET", "/v1/users/alice", "").body) == nothing
	})
	n = n.restart(t)
	n.call(t, "GET", "/v1/users/alice", "").is(t, 200, nothing)
	gone := n.tcp(t)
	gone.send(2, protocol.OpAuth, 1, `{"token":"of alice"}`)
	gone.closedWith(3503, "revoked")
	n.call(t, "POST", "/v1/push", key).want(t, 202, `"duplicate":false`)
	token()
	again := n.tcp(t)
	again.login("v2", "of alice", `,"device":"phone","ack":true`)
	again.expect(protocol.OpMessage, "1")
}

// The device without a name, and users whom a path cannot name, can be removed, too.
func TestRemoveByQuery(t *testing.T) {
	n := start(t, nil)
	for _, user := range []string{".", "/"} {
		nameless, phone := n.tcp(t), n.tcp(t)
		nameless.login("v2", user, `,"ack":true`)
		phone.login("v2", user, `,"device":"phone","ack":true`)
		n.push(t, user, `"one"`)
		nameless.expect(protocol.OpMessage, `"one"`)
		phone.expect(protocol.OpMessage, `"one"`)
		var r removed
		n.call(t, "DELETE", "/v1/user/devices?device=&user="+user, "").decode(t, &r)
		if r.Messages != 1 || r.Devices != 1 || r.Sessions != 1 {
			t.Errorf("user %s: the device without a name: %+v", user, r)
		}
		nameless.closedWith(3506, "the device was forgotten")
		n.call(t, "DELETE", "/v1/user/devices?device=&user="+user, "").want(t, 404, `"not_found"`)
		n.call(t, "GET", "/v1/user?user="+user, "").want(t, 200, `"pending":1,`, `"device":"phone"`) // the other one is as it was
		n.call(t, "DELETE", "/v1/user/messages?user="+user, "").want(t, 200, `"messages":1`)
		n.call(t, "POST", "/v1/user/kick?user="+user, `{"device":"phone"}`).is(t, 200, `{"sessions":1}`)
		phone.closedWith(3506, "")
		n.call(t, "DELETE", "/v1/user?user="+user, "").want(t, 200, `"devices":1`)
	}
}
