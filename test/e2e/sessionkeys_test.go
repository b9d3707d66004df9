package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"imgo/config"
	"imgo/protocol"
)

// sessionName returns the server's name for the only session of a user.
func (n *node) sessionName(t *testing.T, user string) string {
	t.Helper()
	var reply struct{ Sessions []struct{ Name string } }
	n.call(t, "GET", "/v1/users/"+user, "").decode(t, &reply)
	if len(reply.Sessions) != 1 {
		t.Fatalf("%s has the sessions %v", user, reply.Sessions)
	}
	return reply.Sessions[0].Name
}

// pushKeys pushes and checks to how many sessions the push goes.
func (n *node) pushKeys(t *testing.T, target, body string, sessions int) {
	t.Helper()
	n.call(t, "POST", "/v1/push", fmt.Sprintf(`{%s,"body_text":%q}`, target, body)).is(t, 202, fmt.Sprintf(`{"sessions":%d}`, sessions))
}

// A client that is authenticated cannot take what is pushed to another user's session, by whatever key it
// chooses. A push names such a key with its user.
func TestSessionKeysCountWithinTheirUser(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Auth.Mode = "token" })
	for _, user := range []string{"alice", "mallory", "bob"} {
		n.call(t, "POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":"token of %s"}`, user, user)).want(t, 201)
	}
	alice, mallory, bob := n.tcp(t), n.tcp(t), n.tcp(t)
	alice.login("v2", "token of alice", `,"key":"alice-phone"`)
	bob.login("v2", "token of bob", "")
	mallory.login("v2", "token of mallory", `,"key":"alice-phone"`)
	name := n.sessionName(t, "alice")

	n.pushKeys(t, `"keys":["alice-phone"]`, "to a key of somebody", 0)
	n.call(t, "POST", "/goim/push/keys?operation=5&keys=alice-phone", "the same").is(t, 200, `{"code":0,"message":""}`)
	n.pushKeys(t, `"user":"alice","keys":["alice-phone"]`, "one", 1)
	n.pushKeys(t, `"keys":["alice-phone"],"user":"alice"`, "two", 1)
	n.call(t, "POST", "/goim/push/keys?operation=5&keys=alice-phone&mid=alice", "three").is(t, 200, `{"code":0,"message":""}`)
	// The server's name for a session reaches it, also one that has a key.
	n.pushKeys(t, fmt.Sprintf(`"keys":[%q]`, name), "four", 1)
	n.pushKeys(t, fmt.Sprintf(`"user":"alice","keys":[%q]`, name), "five", 1)
	n.pushKeys(t, fmt.Sprintf(`"user":"mallory","keys":[%q]`, name), "not mallory's", 0)
	n.pushKeys(t, fmt.Sprintf(`"keys":[%q]`, n.sessionName(t, "bob")), "six", 1)
	for _, body := range []string{"one", "two", "three", "four", "five"} {
		alice.expect(protocol.OpMessage, body)
	}
	bob.expect(protocol.OpMessage, "six")
	n.push(t, "mallory", `"nothing came before"`)
	mallory.expect(protocol.OpMessage, `"nothing came before"`)
}

// Names cannot be guessed from other names, and no client can choose one as its key.
func TestSessionNamesAreTheServersAlone(t *testing.T) {
	n := start(t, nil)
	alice := n.tcp(t)
	alice.login("v2", "alice", "")
	name := n.sessionName(t, "alice")
	next := n.tcp(t)
	next.login("v2", "next", "")
	if a, b := name[:len(name)-8], n.sessionName(t, "next"); strings.HasPrefix(b, a) {
		t.Errorf("the names %s and %s count up", name, b)
	}
	for _, key := range []string{name, "n1~0000000000000001"} {
		mallory := n.tcp(t)
		body, _ := json.Marshal(map[string]string{"token": "mallory", "key": key})
		mallory.send(2, protocol.OpAuth, 1, string(body))
		mallory.closedWith(3500, "auth key has the form of a session's name")
	}
	n.pushKeys(t, fmt.Sprintf(`"keys":[%q]`, name), "to alice", 1)
	alice.expect(protocol.OpMessage, "to alice")
}

// Without authentication a key is all that goim's callers name. It reaches one user: the one who had it first.
func TestSessionKeysWithoutAuthentication(t *testing.T) {
	n := start(t, nil)
	alice, mallory := n.tcp(t), n.tcp(t)
	alice.login("goim", "77", `,"key":"alice-phone","accepts":[5]`)
	mallory.login("goim", "78", `,"key":"alice-phone","accepts":[5]`)
	n.pushKeys(t, `"keys":["alice-phone"]`, "one", 1)
	n.call(t, "POST", "/goim/push/keys?operation=5&keys=alice-phone", "two").is(t, 200, `{"code":0,"message":""}`)
	alice.expect(protocol.OpMessage, "one")
	alice.expect(protocol.OpMessage, "two")
	n.push(t, "78", `"nothing came before"`)
	mallory.expect(protocol.OpMessage, `"nothing came before"`)
}

// A client of goim whose whole auth body is its token has the key that is in it: nobody else can choose that.
func TestSessionKeysOfWholeBodyTokens(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Auth.Mode = "token" })
	const body = `{"mid":7,"key":"alice-phone","room_id":"live://1","platform":"web","accepts":[1000]}`
	n.call(t, "POST", "/v1/tokens", fmt.Sprintf(`{"user":"alice","token":%q}`, body)).want(t, 201)
	n.call(t, "POST", "/v1/tokens", `{"user":"mallory","token":"token of mallory"}`).want(t, 201)
	alice, mallory := n.tcp(t), n.tcp(t)
	alice.send(1, protocol.OpAuth, 1, body)
	if p := alice.receive(); p.Op != protocol.OpAuthReply {
		t.Fatalf("got op %d %s", p.Op, p.Body)
	}
	mallory.login("v2", "token of mallory", `,"key":"alice-phone"`)
	n.pushKeys(t, `"keys":["alice-phone"]`, "one", 1)
	n.call(t, "POST", "/goim/push/keys?operation=1000&keys=alice-phone", "two").is(t, 200, `{"code":0,"message":""}`)
	alice.expect(protocol.OpMessage, "one")
	alice.expect(1000, "two")
	n.push(t, "mallory", `"nothing came before"`)
	mallory.expect(protocol.OpMessage, `"nothing came before"`)
}
