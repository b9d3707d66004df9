package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"imgo/config"
	"imgo/protocol"
)

// goimConversation is the conversation of a goim v2 client and of a caller of goim's logic. It is
// the same on TCP and on binary WebSocket.
// push wraps a pushed packet as the transport does.
func goimConversation(t *testing.T, n *node, dial func() *client, push func(packet string) string) {
	t.Helper()
	c := dial()
	// goim ignores packets before auth.
	c.put(wire("00000010 0010 0001 00000002 00000001", ""))
	auth := `{"mid":123,"key":"k-1","room_id":"live://1000","platform":"web","accepts":[1000,1001]}`
	c.put(wire(fmt.Sprintf("%08x 0010 0001 00000007 00000002", 16+len(auth)), auth))
	c.want(wire("00000010 0010 0001 00000008 00000002", ""))
	// A second member of the room accepts no operation.
	silent := dial()
	silent.login("goim", "124", `,"room_id":"live://1000"`)
	c.put(wire("00000010 0010 0001 00000002 00000003", ""))
	c.want(wire("00000014 0010 0001 00000003 00000003 00000002", ""))

	// Every kind of push reaches the sessions that accept its operation, with version 1.
	ok := func(path, body string) {
		t.Helper()
		n.call(t, "POST", "/goim/push/"+path, body).is(t, 200, `{"code":0,"message":""}`)
	}
	ok("mids?operation=1000&mids=123&mids=124", "mids")
	c.want(push(wire("00000014 0010 0001 000003e8 00000000", "mids")))
	ok("mids?operation=1002&mids=123", "not accepted")
	ok("keys?operation=1001&keys=k-1&keys=other", "keys")
	c.want(push(wire("00000014 0010 0001 000003e9 00000000", "keys")))
	ok("keys?operation=1002&keys=k-1", "not accepted")
	ok("all?operation=1000&speed=32", "all")
	c.want(push(wire("00000013 0010 0001 000003e8 00000000", "all")))
	ok("all?operation=1002&speed=32", "not accepted")
	ok("room?operation=1002&type=live&room=1000", "room")
	for _, member := range []*client{c, silent} { // room messages are not filtered by operation
		member.want(push(wire("00000014 0010 0001 000003ea 00000000", "room")))
	}
	ok("room?operation=1002&type=live&room=2000", "another room")
	n.call(t, "POST", "/v1/push", `{"user":"123","body_base64":"AP8="}`).want(t, 202)
	c.want(push(wire("00000012 0010 0001 00000005 00000000", "\x00\xff")))
	ok("mids?operation=5&mids=123", "not accepted")

	// The queries of callers.
	n.call(t, "GET", "/goim/online/top?type=live&limit=10", "").is(t, 200, `{"code":0,"message":"","data":[{"room_id":"1000","count":2}]}`)
	n.call(t, "GET", "/goim/online/room?type=live&rooms=1000&rooms=2000", "").is(t, 200, `{"code":0,"message":"","data":{"1000":2,"2000":0}}`)
	n.call(t, "GET", "/goim/online/total", "").is(t, 200, `{"code":0,"message":"","data":{"conn_count":2,"ip_count":2}}`)
	n.call(t, "GET", "/goim/nodes/weighted?platform=web", "").want(t, 200, `{"code":0,"message":"","data":{"domain":"127.0.0.1","tcp_port":`,
		`"heartbeat":240,"nodes":["127.0.0.1"]`)
	n.call(t, "GET", "/goim/nodes/instances", "").want(t, 200, `"appid":"goim.comet","hostname":"n1"`)

	// Change the room, subscribe, unsubscribe, and send upstream.
	c.put(wire("0000001b 0010 0001 0000000c 00000004", "live://2000"))
	c.want(wire("0000001b 0010 0001 0000000d 00000004", "live://2000"))
	ok("room?operation=1000&type=live&room=1000", "old")
	silent.want(push(wire("00000013 0010 0001 000003e8 00000000", "old")))
	ok("room?operation=1000&type=live&room=2000", "new")
	c.want(push(wire("00000013 0010 0001 000003e8 00000000", "new")))
	c.put(wire("00000019 0010 0001 0000000e 00000005", "1002,1003"))
	c.want(wire("00000019 0010 0001 0000000f 00000005", "1002,1003"))
	c.put(wire("00000014 0010 0001 00000010 00000006", "1000"))
	c.want(wire("00000014 0010 0001 00000011 00000006", "1000"))
	ok("keys?operation=1000&keys=k-1", "no more")
	ok("keys?operation=1003&keys=k-1", "now")
	c.want(push(wire("00000013 0010 0001 000003eb 00000000", "now")))
	c.put(wire("00000012 0010 0001 00000004 00000008", "up"))
	c.want(wire("00000010 0010 0001 00000004 00000008", ""))
	c.put(wire("00000010 0010 0001 0000000c 00000009", ""))
	c.want(wire("00000010 0010 0001 0000000d 00000009", ""))
	c.put(wire("00000010 0010 0001 00000002 0000000a", ""))
	c.want(wire("00000014 0010 0001 00000003 0000000a 00000000", ""))

	// The client leaves and returns. Messages to its user now wait, and the next session that
	// accepts the operation gets them.
	_ = c.Close()
	eventually(t, "it is away, and only what it did not accept waits", func() bool {
		s := n.user(t, "123")
		return !s.Online && s.Pending == 2
	})
	ok("mids?operation=1000&mids=123", "waiting")
	ok("keys?operation=1000&keys=k-1", "nobody")
	ok("all?operation=5", "not accepted")
	n.call(t, "POST", "/v1/push", `{"all":true,"body_text":"not for those who are away"}`).want(t, 202)
	silent.want(push(wire("0000002a 0010 0001 00000005 00000000", "not for those who are away")))
	c = dial()
	auth = `{"mid":123,"key":"k-1","room_id":"live://1000","platform":"web","accepts":[1000]}`
	c.put(wire(fmt.Sprintf("%08x 0010 0001 00000007 00000001", 16+len(auth)), auth))
	c.want(wire("00000010 0010 0001 00000008 00000001", ""))
	c.want(push(wire("00000017 0010 0001 000003e8 00000000", "waiting")))
	ok("mids?operation=1000&mids=123", "again")
	c.want(push(wire("00000015 0010 0001 000003e8 00000000", "again")))

	// A second auth changes nothing. A body over the limit ends the connection. The other client stays
	// in the room.
	c.put(wire("00000010 0010 0001 00000007 0000000b", ""))
	c.want(wire("00000010 0010 0001 00000007 0000000b", ""))
	c.put(wire("7fffffff 0010 0001 00000004 0000000b", ""))
	c.wantEnd(3507)
	eventually(t, "it has left the room", func() bool {
		return n.call(t, "GET", "/goim/online/room?type=live&rooms=1000", "").body == `{"code":0,"message":"","data":{"1000":1}}`
	})
	silent.put(wire("00000010 0010 0001 00000002 00000004", ""))
	silent.want(wire("00000014 0010 0001 00000003 00000004 00000001", ""))
}

// inRaw puts a packet into one with operation 9, as goim's server sent its pushes over WebSocket.
func inRaw(packet string) string {
	return wire(fmt.Sprintf("%08x 0010 0001 00000009 00000000", 16+len(packet)), packet)
}

func TestGoimTCP(t *testing.T) {
	n := start(t, acksByTCP)
	goimConversation(t, n, func() *client { return n.tcp(t) }, func(packet string) string { return packet })
}

func TestGoimWebSocket(t *testing.T) {
	n := start(t, acksByTCP)
	goimConversation(t, n, func() *client { return n.ws(t, false) }, inRaw)
}

// TestGenerationsTogether connects one user with a client of each generation. A push must reach
// each client in its own form.
func TestGenerationsTogether(t *testing.T) {
	n := start(t, nil)
	imgoTCP, imgoWS, goimTCP, goimWS, v2, v2JSON := n.tcp(t), n.ws(t, true), n.tcp(t), n.ws(t, false), n.tcp(t), n.ws(t, true)
	imgoTCP.login("imgo", "7", "")
	imgoWS.login("imgo", "7", "")
	goimTCP.login("goim", "7", "")
	goimWS.login("goim", "7", "")
	v2.login("v2", "7", "")
	v2JSON.login("v2", "7", `,"device":"d"`)
	id := n.push(t, "7", `{"x":1}`)
	imgoTCP.want(wire("00000017 0010 0000 00000005 00000000", `{"x":1}`))
	imgoWS.want(`[{"ver":0,"op":5,"seq":0,"body":{"x":1}}]` + "\n")
	goimTCP.want(wire("00000017 0010 0001 00000005 00000000", `{"x":1}`))
	goimWS.want(inRaw(wire("00000017 0010 0001 00000005 00000000", `{"x":1}`)))
	v2.want(wire(fmt.Sprintf("0000001f 0018 0002 00000005 00000000 %016x", id), `{"x":1}`))
	v2JSON.want(fmt.Sprintf(`[{"ver":2,"op":5,"seq":0,"id":"%d","body":{"x":1}}]`, id))
}

// A client of goim has no token: a backend that makes its auth body a token lets it in.
func TestGoimAuthBodyIsAToken(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Auth.Mode = "token" })
	const body = `{"mid":7,"key":"phone","room_id":"live://1","platform":"ios","accepts":[1000]}`
	n.call(t, "POST", "/v1/tokens", fmt.Sprintf(`{"user":"ann","token":%q}`, body)).want(t, 201)
	for _, over := range []string{"tcp", "ws"} {
		c := n.dialAs(t, over)
		c.send(1, protocol.OpAuth, 1, body)
		c.expect(protocol.OpAuthReply, "")
		n.call(t, "POST", "/v1/push", `{"user":"ann","op":1000,"kept":false,"body_text":"for ann"}`).want(t, 202)
		if p := c.receive(); !strings.HasSuffix(string(p.Body), "for ann") {
			t.Errorf("over %s the client got op %d %q", over, p.Op, p.Body)
		}
		other := n.dialAs(t, over)
		other.send(1, protocol.OpAuth, 1, strings.Replace(body, "7", "8", 1))
		other.closedWith(3501, "")
	}
}

// A backend decides about clients of goim, by their auth body and by the Cookie of the handshake.
func TestBackendDecidesAboutGoim(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var call struct {
			Type, Generation string
			Auth             struct{ Mid int64 }
			Headers          map[string][]string
		}
		if err := json.NewDecoder(r.Body).Decode(&call); err != nil || call.Type != "connect" || call.Generation != "goim" || call.Auth.Mid != 7 {
			t.Errorf("the backend got %+v, %v", call, err)
		}
		if cookie := call.Headers["Cookie"]; len(cookie) == 1 && cookie[0] == "sid=ann's" {
			fmt.Fprint(w, `{"user":"ann"}`)
			return
		}
		fmt.Fprint(w, `{"refuse":"log in first"}`)
	}))
	defer backend.Close()
	n := start(t, func(c *config.Config) {
		c.Auth.Mode, c.Auth.WebhookURL = "webhook", backend.URL
		c.Auth.WebhookSecrets = []string{"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
	})
	const body = `{"mid":7,"room_id":"live://1","platform":"web","accepts":[1000]}`
	with := wsTo(t, n.ClientAddr("ws").String(), false, "Cookie: sid=ann's")
	with.send(1, protocol.OpAuth, 1, body)
	with.expect(protocol.OpAuthReply, "")
	n.call(t, "POST", "/v1/push", `{"user":"ann","op":1000,"kept":false,"body_text":"for ann"}`).want(t, 202)
	if p := with.receive(); !strings.HasSuffix(string(p.Body), "for ann") {
		t.Errorf("the client got op %d %q", p.Op, p.Body)
	}
	without := n.ws(t, false)
	without.send(1, protocol.OpAuth, 1, body)
	without.closedWith(3501, "log in first")
}
