package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"imgo/config"
	"imgo/protocol"
	"imgo/roles/logic/httpapi"
)

// The API keys of the attacker tests.
const (
	ownerKey    = "X-API-Key: the-key-of-the-owner"
	attackerKey = "X-API-Key: the-key-of-the-attacker"
)

// TestAttackerWithATokenAndAPushKey: mallory has one valid client token, and an API key that may only push to
// mallory and to the lobby. What is tried neither reads what is alice's nor disturbs her.
func TestAttackerWithATokenAndAPushKey(t *testing.T) {
	n := start(t, func(c *config.Config) {
		withRules(c)
		c.HTTP.Keys = []httpapi.Key{
			{Name: "owner", Key: "the-key-of-the-owner"},
			{Name: "attacker", Key: "the-key-of-the-attacker", Scopes: []string{"push"}, Users: []string{"mallory"}, Rooms: []string{"lobby"}},
		}
	})
	owner := func(method, path, body string) answer { return n.call(t, method, path, body, ownerKey) }
	for _, user := range []string{"alice", "mallory"} {
		owner("POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":"token of %s","rooms":["private/%s"]}`, user, user, user)).want(t, 201)
	}
	alice := n.tcp(t)
	alice.login("v2", "token of alice", `,"ack":true,"device":"phone","key":"alice-phone","rooms":["private/alice"]`)
	owner("PUT", "/v1/rooms/staff/users/alice", "").want(t, 200, `"sessions":1`)
	alice.expect(protocol.OpRoomChanged, `{"room":"staff","joined":true,"reason":"the backend has put the user into the room"}`)
	push := func(target, body string) {
		t.Helper()
		owner("POST", "/v1/push", fmt.Sprintf(`{%s,"body_text":%q}`, target, body)).want(t, 202)
	}
	push(`"user":"alice"`, "secret") // it waits: alice has not acknowledged it
	secret := alice.expect(protocol.OpMessage, "secret")
	var state struct {
		Sessions []struct{ Name string }
		Pending  int
	}
	owner("GET", "/v1/users/alice", "").decode(t, &state)

	mallory := n.tcp(t)
	mallory.login("v2", "token of mallory", `,"ack":true,"key":"alice-phone","device":"phone","mid":"alice"`)

	// By the protocol: each packet is refused, or does nothing to alice.
	refused := func(op int32, body string) func(*testing.T) {
		return func(t *testing.T) {
			mallory.send(2, op, 9, body)
			if p := mallory.receive(); p.Op != protocol.OpError {
				t.Errorf("answered with op %d %s", p.Op, p.Body)
			}
		}
	}
	closedConnection := func(auth string) func(*testing.T) {
		return func(t *testing.T) {
			c := n.tcp(t)
			c.send(2, protocol.OpAuth, 1, auth)
			if p := c.receive(); p.Op != protocol.OpDisconnect {
				t.Errorf("answered with op %d %s", p.Op, p.Body)
			}
		}
	}
	forbidden := func(method, path, body string) func(*testing.T) {
		return func(t *testing.T) {
			a := n.call(t, method, path, body, attackerKey)
			// /1 answers every error with 200 and a number, as its servers did.
			if a.status != 403 && a.body != `{"ret":65533}` && !strings.Contains(a.body, `"code":-400`) {
				t.Errorf("answered %d %.300s", a.status, a.body)
			}
			if a := n.call(t, method, path, body); a.status == 200 || a.status == 202 {
				if a.body != `{"ret":65533}` && !strings.Contains(a.body, `"code":-4`) {
					t.Errorf("without a key answered %d %.300s", a.status, a.body)
				}
			}
		}
	}
	for name, attempt := range map[string]func(*testing.T){
		"joins a private room":                 refused(protocol.OpJoinRoom, "private/alice"),
		"joins a room of the backend":          refused(protocol.OpJoinRoom, "staff"),
		"joins a room by a pattern":            refused(protocol.OpJoinRoom, "private/*"),
		"sends a token that it made up":        refused(protocol.OpAuth, `{"token":"token of alic"}`),
		"sends a token and another's name":     refused(protocol.OpAuth, `{"mid":"alice"}`),
		"sends a message to the backend":       refused(protocol.OpSend, `{"to":"alice"}`),
		"connects with a name alone":           closedConnection(`{"mid":"alice"}`),
		"connects as alice with no good token": closedConnection(`{"token":"token of alic","device":"phone"}`),
		"takes alice's session name as its key": closedConnection(
			fmt.Sprintf(`{"token":"token of mallory","key":%q}`, state.Sessions[0].Name)),
		"acknowledges alice's message": func(t *testing.T) {
			mallory.send(2, protocol.OpAck, 9, wire(fmt.Sprintf("%016x", secret.ID), ""))
			mallory.expect(protocol.OpAckReply, "")
		},
		"names private rooms when it connects": func(t *testing.T) {
			c := n.tcp(t)
			c.send(2, protocol.OpAuth, 1, `{"token":"token of mallory","device":"tv","rooms":["private/alice","staff"]}`)
			if p := c.receive(); strings.Count(string(p.Body), `"code":"forbidden"`) != 2 {
				t.Errorf("answered with op %d %s", p.Op, p.Body)
			}
		},
		"pushes to alice":              forbidden("POST", "/v1/push", `{"user":"alice","body":1}`),
		"pushes to alice among others": forbidden("POST", "/v1/push", `{"users":["mallory","alice"],"body":1}`),
		"pushes to alice's key":        forbidden("POST", "/v1/push", `{"keys":["alice-phone"],"body":1}`),
		"pushes to alice's session":    forbidden("POST", "/v1/push", fmt.Sprintf(`{"keys":[%q],"body":1}`, state.Sessions[0].Name)),
		"pushes to alice with her key": forbidden("POST", "/v1/push", `{"user":"alice","keys":["alice-phone"],"body":1}`),
		"pushes to a private room":     forbidden("POST", "/v1/push", `{"room":"private/alice","body":1}`),
		"pushes to all":                forbidden("POST", "/v1/push", `{"all":true,"body":1}`),
		"pushes to alice as in 2016":   forbidden("POST", "/1/push?uid=7", "x"),
		"pushes to alice as with goim": forbidden("POST", "/goim/push/mids?operation=1000&mids=7", "x"),
		"looks at alice":               forbidden("GET", "/v1/users/alice", ""),
		"looks at alice by query":      forbidden("GET", "/v1/user?user=alice", ""),
		"looks whether alice is there": forbidden("GET", "/v1/users?ids=alice", ""),
		"looks into a room":            forbidden("GET", "/v1/rooms/private%2Falice", ""),
		"looks into a room by query":   forbidden("GET", "/v1/room?room=private/alice", ""),
		"looks at alice's rooms":       forbidden("GET", "/v1/users/alice/rooms", ""),
		"looks at events":              forbidden("GET", "/v1/events", ""),
		"takes alice's messages":       forbidden("GET", "/1/msg/get?uid=7&mid=0", ""),
		"kicks alice":                  forbidden("POST", "/v1/users/alice/kick", ""),
		"erases alice":                 forbidden("DELETE", "/v1/users/alice", ""),
		"forgets alice's device":       forbidden("DELETE", "/v1/users/alice/devices/phone", ""),
		"drops alice's messages":       forbidden("DELETE", "/v1/users/alice/messages", ""),
		"makes a token for alice":      forbidden("POST", "/v1/tokens", `{"user":"alice"}`),
		"makes a token with rooms":     forbidden("POST", "/v1/tokens", `{"user":"mallory","rooms":["*"]}`),
		"revokes alice's tokens":       forbidden("POST", "/v1/tokens/revoke", `{"user":"alice"}`),
		"puts itself into a room":      forbidden("PUT", "/v1/rooms/staff/users/mallory", ""),
		"puts itself into it by query": forbidden("PUT", "/v1/memberships?room=staff&user=mallory", ""),
		"takes alice out of a room":    forbidden("DELETE", "/v1/rooms/staff/users/alice", ""),
		"adds partitions":              forbidden("POST", "/v1/partitions", `{"kept":32}`),
		"reads the memory of the node": forbidden("GET", "/debug/pprof/heap", ""),
		"reads the command line":       forbidden("GET", "/debug/pprof/cmdline", ""),
		"forgets a node's sessions":    forbidden("POST", "/1/server/del?server=n1", ""),
		"makes a token as in 2016":     forbidden("POST", "/1/admin/token/new?uid=7&token=t&expire=9", ""),
		"counts sessions as in 2016":   forbidden("GET", "/1/count?type=room", ""),
		"counts sessions as with goim": forbidden("GET", "/goim/online/total", ""),
		"revokes a token by its text":  forbidden("POST", "/v1/tokens/revoke", `{"token":"token of alice"}`),
		"pushes in a batch":            func(t *testing.T) { pushesNothing(t, n, "/v1/push/batch", `{"pushes":[{"user":"alice","body":1}]}`) },
		"pushes in a stream":           func(t *testing.T) { pushesNothing(t, n, "/v1/push/stream", `{"user":"alice","body":1}`+"\n") },
	} {
		t.Run(name, attempt)
	}

	n.call(t, "POST", "/v1/push", `{"user":"mallory","kept":false,"body":1}`, attackerKey).want(t, 202) // what the key is for

	// Alice is as she was: the same session, the same message waits, and nothing came but what is for her.
	for _, m := range []struct{ to, body string }{
		{`"room":"private/alice"`, "in private"}, {`"room":"staff"`, "to staff"}, {`"user":"alice"`, "at last"},
	} {
		push(m.to, m.body) // one after the other: the rooms have no order among them
		alice.expect(protocol.OpMessage, m.body)
	}
	before := state
	owner("GET", "/v1/users/alice", "").decode(t, &state)
	if len(state.Sessions) != 1 || state.Sessions[0] != before.Sessions[0] || state.Pending != before.Pending+1 {
		t.Errorf("alice was %+v and is %+v", before, state)
	}
	// Mallory has got the one message that was for mallory.
	mallory.expect(protocol.OpMessage, "1")
	push(`"user":"mallory"`, "nothing came before")
	mallory.expect(protocol.OpMessage, "nothing came before")
}

// pushesNothing checks that the one push of a batch or a stream is forbidden.
func pushesNothing(t *testing.T, n *node, path, body string) {
	t.Helper()
	if a := n.call(t, "POST", path, body, attackerKey); !strings.Contains(a.body, `"status":403`) {
		t.Errorf("answered %d %s", a.status, a.body)
	}
}
