package e2e_test

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"imgo/config"
	"imgo/roles/comet"
)

// These tests replay whole conversations of imgo 2016's clients and callers, byte for byte as in
// its sources. A token is made, clients connect, and callers push. Messages for users that are away
// are read by /1/msg/get.

const form = "Content-Type: application/x-www-form-urlencoded"

// messages matches a response of /1/msg/get with at least one message.
var messages = regexp.MustCompile(`^\{"data":\{"msgs":\[(\{"msg":"[A-Za-z0-9+/=]*","mid":\d+,"gid":0\},?)+\]\},"ret":0\}$`)

var oneMessage = regexp.MustCompile(`"msg":"([^"]*)","mid":(\d+)`)

// msgGet reads the messages after mid and returns their bodies and ids.
func (n *node) msgGet(t *testing.T, uid string, mid int64, token string) (bodies []string, mids []int64) {
	t.Helper()
	a := n.call(t, "GET", fmt.Sprintf("/1/msg/get?uid=%s&mid=%d&token=%s", uid, mid, token), "")
	if a.status == 200 && a.body == `{"ret":0}` {
		return nil, nil
	}
	if a.status != 200 || !messages.MatchString(a.body) {
		t.Fatalf("/1/msg/get answered %d %s", a.status, a.body)
	}
	for _, m := range oneMessage.FindAllStringSubmatch(a.body, -1) {
		body, err := base64.StdEncoding.DecodeString(m[1])
		if err != nil {
			t.Fatal(err)
		}
		at, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil || at <= mid || len(mids) > 0 && at <= mids[len(mids)-1] {
			t.Fatalf("mid %s after %d and %v: %v", m[2], mid, mids, err)
		}
		bodies, mids = append(bodies, string(body)), append(mids, at)
	}
	return bodies, mids
}

// acksByTCP makes what old clients get count as delivered at once, so that a test need not wait for
// heartbeats.
func acksByTCP(cfg *config.Config) { cfg.Delivery.AutoAck = comet.AutoAckTCP }

func imgoNode(t *testing.T) *node {
	t.Helper()
	return start(t, func(cfg *config.Config) {
		cfg.Auth.Mode = "token"
		acksByTCP(cfg)
	})
}

func TestImgo2016TCP(t *testing.T) {
	n := imgoNode(t)
	n.call(t, "POST", "/1/admin/token/new", "uid=123&token=tok&expire=3600", form).is(t, 200, `{"ret":1}`)

	// A wrong token, or a first packet that is not auth, ends the connection.
	c := n.tcp(t)
	c.put(wire("00000015 0010 0001 00000007 00000001", `"xyz"`))
	c.closedWith(3501, "unknown")

	c = n.tcp(t)
	c.put(wire("00000015 0010 0001 00000007 00000003", `"tok"`))
	c.want(wire("00000010 0010 0001 00000008 00000003", ""))
	c.put(wire("00000010 0010 0001 00000002 00000004", ""))
	c.want(wire("00000010 0010 0001 00000003 00000004", ""))
	if s := n.user(t, "123"); len(s.Sessions) != 1 || s.Sessions[0].Generation != "imgo" || s.Sessions[0].Transport != "tcp" {
		t.Errorf("user 123 is %+v", s)
	}

	// Every kind of push.
	n.call(t, "POST", "/1/push?uid=123", `{"test":1}`).is(t, 200, `{"ret":1}`)
	c.want(wire("0000001a 0010 0000 00000005 00000000", `{"test":1}`))
	n.call(t, "POST", "/1/push?uid=123", "\x00\xffbytes\n").is(t, 200, `{"ret":1}`)
	c.want(wire("00000018 0010 0000 00000005 00000000", "\x00\xffbytes\n"))
	n.call(t, "POST", "/1/pushs", `{"m":{"test": "many"},"u":[123,124]}`).is(t, 200, `{"ret":1}`)
	c.want(wire("00000020 0010 0000 00000005 00000000", `{"test": "many"}`))
	n.call(t, "POST", "/1/push/room?rid=1&ensure=true", "to a room that it is not in").is(t, 200, `{"ret":1}`)
	n.call(t, "POST", "/1/push/all", "everyone").is(t, 200, `{"ret":1}`)
	c.want(wire("00000018 0010 0000 00000005 00000000", "everyone"))

	// Upstream, the test operation and the counts.
	c.put(wire("00000012 0010 0001 00000004 00000005", "hi"))
	c.want(wire("00000012 0010 0001 00000005 00000005", "hi"))
	c.put(wire("00000010 0010 0001 000000fe 00000006", ""))
	c.want(wire("00000022 0010 0001 000000ff 00000006", `{"test":"come on"}`))
	n.call(t, "GET", "/1/count?type=room", "").is(t, 200, `{"data":[{"RoomId":-1,"Count":1}],"ret":1}`)
	if a := n.call(t, "GET", "/1/count?type=server",
		""); !regexp.MustCompile(`^\{"data":\[\{"Server":\d+,"Count":1\}\],"ret":1\}$`).MatchString(a.body) {
		t.Errorf("/1/count?type=server: %s", a.body)
	}
	n.call(t, "GET", "/1/push?uid=123", "").want(t, 405)
	n.call(t, "POST", "/1/msg/get?uid=123&mid=0&token=tok", "").want(t, 405)

	// Messages that arrived cannot be read again.
	eventually(t, "it has all arrived", func() bool { return n.user(t, "123").Pending == 0 })
	if bodies, _ := n.msgGet(t, "123", 0, "tok"); bodies != nil {
		t.Errorf("/1/msg/get has %q", bodies)
	}

	// The client is away: reading deletes the messages, all of them or a part.
	_ = c.Close()
	eventually(t, "it is away", func() bool { return !n.user(t, "123").Online })
	for i := range 3 {
		n.call(t, "POST", "/1/push?uid=123", fmt.Sprintf(`{"n":%d}`, i)).is(t, 200, `{"ret":1}`)
	}
	n.call(t, "POST", "/1/pushs", `{"m":{"n":3},"u":[123]}`).is(t, 200, `{"ret":1}`)
	n.call(t, "GET", "/1/msg/get?uid=123&mid=0&token=other", "").is(t, 200, `{"ret":65535}`)
	bodies, mids := n.msgGet(t, "123", 0, "tok")
	if fmt.Sprint(bodies) != `[{"n":0} {"n":1} {"n":2} {"n":3}]` {
		t.Fatalf("/1/msg/get has %q", bodies)
	}
	if bodies, _ = n.msgGet(t, "123", 0, "tok"); bodies != nil {
		t.Errorf("/1/msg/get has %q once more", bodies)
	}
	for i := range 2 {
		n.call(t, "POST", "/1/push?uid=123", fmt.Sprintf(`{"m":%d}`, i)).is(t, 200, `{"ret":1}`)
	}
	if bodies, _ = n.msgGet(t, "123", mids[3], "tok"); fmt.Sprint(bodies) != `[{"m":0} {"m":1}]` {
		t.Errorf("after the last one: %q", bodies)
	}
	n.call(t, "POST", "/1/push?uid=123", `jsonp`).is(t, 200, `{"ret":1}`)
	a := n.call(t, "GET", "/1/msg/get?uid=123&mid=0&token=tok&cb=f", "")
	if !regexp.MustCompile(`^f\(\{"data":\{"msgs":\[\{"msg":"anNvbnA=","mid":\d+,"gid":0\}\]\},"ret":0\}\)$`).MatchString(a.body) {
		t.Errorf("with a callback: %s", a.body)
	}

	// The client returns and gets the waiting message.
	n.call(t, "POST", "/1/push?uid=123", "waiting").is(t, 200, `{"ret":1}`)
	c = n.tcp(t)
	c.put(wire("00000013 0010 0001 00000007 00000001", `tok`))
	c.want(wire("00000010 0010 0001 00000008 00000001", ""))
	c.want(wire("00000017 0010 0000 00000005 00000000", "waiting"))
	c.put(wire("00000010 0010 0001 0000000c 00000007", ""))
	c.wantEnd(3500)
}

func TestImgo2016WebSocket(t *testing.T) {
	n := imgoNode(t)
	// The document of imgo 2016 showed a JSON body.
	n.call(t, "POST", "/1/admin/token/new", `{"uid":124,"token":"t124","expire":3600}`, "Content-Type: application/json").is(t, 200,
		`{"ret":1}`)
	c := n.ws(t, true)
	c.put(`{"ver":1,"op":7,"seq":1,"body":"xyz"}`)
	c.wantEnd(3501)

	c = n.ws(t, true)
	c.put(`{"ver":1,"op":7,"seq":1,"body":"t124"}`)
	c.want(`[{"ver":1,"op":8,"seq":1,"body":{}}]` + "\n")
	c.put(`{"ver":1,"op":2,"seq":2,"body":{}}`)
	c.want(`[{"ver":1,"op":3,"seq":2,"body":{}}]` + "\n")

	n.call(t, "POST", "/1/push?uid=124", `{"test":1}`).is(t, 200, `{"ret":1}`)
	c.want(`[{"ver":0,"op":5,"seq":0,"body":{"test":1}}]` + "\n")
	n.call(t, "POST", "/1/pushs", `{"m":{"test": [2]},"u":[123,124]}`).is(t, 200, `{"ret":1}`)
	c.want(`[{"ver":0,"op":5,"seq":0,"body":{"test":[2]}}]` + "\n")
	n.call(t, "POST", "/1/push/all", `{"to":"all"}`).is(t, 200, `{"ret":1}`)
	c.want(`[{"ver":0,"op":5,"seq":0,"body":{"to":"all"}}]` + "\n")
	c.put(`{"ver":1,"op":4,"seq":3,"body":{"a":[1]}}`)
	c.want(`[{"ver":1,"op":5,"seq":3,"body":{"a":[1]}}]` + "\n")
	c.put(`{"ver":1,"op":254,"seq":4}`)
	c.want(`[{"ver":1,"op":255,"seq":4,"body":{"test":"come on"}}]` + "\n")

	// imgo 2016 assigned no room. Here a client that names a room is in it. Wait first, because a
	// second session of the user would also get messages that are still pending.
	eventually(t, "it has all arrived", func() bool { return n.user(t, "124").Pending == 0 })
	inRoom := n.ws(t, true)
	inRoom.put(`{"ver":1,"op":7,"seq":1,"body":{"token":"t124","room_id":"7"}}`)
	inRoom.want(`[{"ver":1,"op":8,"seq":1,"body":{}}]` + "\n")
	n.call(t, "POST", "/1/push/room?rid=7&ensure=false", `{"to":"room"}`).is(t, 200, `{"ret":1}`)
	inRoom.want(`[{"ver":0,"op":5,"seq":0,"body":{"to":"room"}}]` + "\n")
	n.call(t, "GET", "/1/count?type=room", "").is(t, 200, `{"data":[{"RoomId":-1,"Count":1},{"RoomId":7,"Count":1}],"ret":1}`)
	_ = inRoom.Close()

	_ = c.Close()
	eventually(t, "it is away, and has what was sent", func() bool {
		s := n.user(t, "124")
		return !s.Online && s.Pending == 0
	})
	for i := range 3 {
		n.call(t, "POST", "/1/push?uid=124", fmt.Sprintf(`{"n":%d}`, i)).is(t, 200, `{"ret":1}`)
	}
	bodies, _ := n.msgGet(t, "124", 0, "t124")
	if fmt.Sprint(bodies) != `[{"n":0} {"n":1} {"n":2}]` {
		t.Errorf("/1/msg/get has %q", bodies)
	}
	n.call(t, "POST", "/1/push?uid=124", `"waiting"`).is(t, 200, `{"ret":1}`)
	c = n.ws(t, true)
	c.put(`{"ver":1,"op":7,"seq":1,"body":"t124"}`)
	c.want(`[{"ver":1,"op":8,"seq":1,"body":{}}]` + "\n")
	c.want(`[{"ver":0,"op":5,"seq":0,"body":"waiting"}]` + "\n")
	c.put(`[{"ver":1,"op":2,"seq":2,"body":{}}]`) // in 2016 an array ended the connection, too
	c.closedWith(3500, "array")
}
