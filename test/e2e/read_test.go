package e2e_test

import (
	"fmt"
	"testing"

	"imgo/protocol"
	"imgo/transport"
)

// read tells that the user has read messages: all up to an id, and those of the body.
func (c *client) read(seq int32, upTo uint64, body string) {
	c.t.Helper()
	if c.text {
		c.put(fmt.Sprintf(`{"ver":2,"op":%d,"seq":%d,"id":"%d","body":%s}`, protocol.OpRead, seq, upTo, body))
		return
	}
	c.put(string(transport.AppendPacket(nil, 2, protocol.HeaderV2, protocol.OpRead, seq, upTo, []byte(body))))
}

// What one device has read is dismissed on the others, comes to none of them again, and is told of once.
func TestRead(t *testing.T) {
	n := start(t, nil)
	phone, laptop := n.tcp(t), n.ws(t, true)
	phone.login("v2", "alice", `,"ack":true,"device":"phone"`)
	laptop.login("v2", "alice", `,"ack":true,"device":"laptop"`)
	var ids []uint64
	for i := range 4 {
		ids = append(ids, n.push(t, "alice", fmt.Sprint(i)))
		for _, c := range []*client{phone, laptop} {
			if p := c.expect(5, fmt.Sprint(i)); p.ID != ids[i] {
				t.Fatalf("message %d has the id %d, want %d", i, p.ID, ids[i])
			}
		}
	}
	phone.read(7, ids[0], wire(fmt.Sprintf("%016x", ids[2]), ""))
	if p := phone.receive(); p.Op != protocol.OpReadReply || p.Seq != 7 || len(p.Body) != 0 {
		t.Fatalf("the answer is %+v %s", p, p.Body)
	}
	if p := laptop.expect(protocol.OpDismiss, fmt.Sprintf(`["%d"]`, ids[2])); p.ID != ids[0] {
		t.Errorf("dismissed up to %d, want %d", p.ID, ids[0])
	}
	// A caller of the API reads for the user: every session is told.
	n.call(t, "POST", "/v1/users/alice/read", fmt.Sprintf(`{"ids":["%d"]}`, ids[3])).want(t, 200, `{"sessions":2}`)
	phone.expect(protocol.OpDismiss, wire(fmt.Sprintf("%016x", ids[3]), ""))
	laptop.expect(protocol.OpDismiss, fmt.Sprintf(`["%d"]`, ids[3]))
	n.call(t, "GET", "/v1/users/alice/messages", "").want(t, 200, fmt.Sprintf(`"id":"%d"`, ids[1]))

	n = n.restart(t)
	for _, name := range []string{"phone", "laptop"} {
		again := n.tcp(t)
		again.login("v2", "alice", `,"ack":true,"device":"`+name+`"`)
		if p := again.expect(5, "1"); p.ID != ids[1] {
			t.Errorf("%s got the message %d again, want %d", name, p.ID, ids[1])
		}
		n.push(t, "alice", "4")
		again.expect(5, "4")
		n.call(t, "DELETE", "/v1/users/alice/devices/"+name, "").want(t, 200) // the next one gets it anew
	}
	n.call(t, "POST", "/v1/users/alice/read", fmt.Sprintf(`{"up_to":"%d","ids":["%d"]}`, ids[0], ids[2])).want(t, 200)
	n.call(t, "POST", "/v1/users/alice/read", fmt.Sprintf(`{"up_to":"%d"}`, ids[3])).want(t, 200)
	n.wantEvents(t, "user=alice&types=message.read", "read ", "read ", "read ")
	n.call(t, "GET", "/v1/events?user=alice&types=message.read", "").want(t, 200,
		fmt.Sprintf(`"data":{"user":"alice","device":"phone","ids":["%d"],"up_to":"%d"}`, ids[2], ids[0]),
		fmt.Sprintf(`"data":{"user":"alice","device":"","ids":["%d"]}`, ids[3]),
		fmt.Sprintf(`"data":{"user":"alice","device":"","ids":[],"up_to":"%d"}`, ids[3]))
	wantInOrder(t, n.explain(t, "alice", fmt.Sprint(ids[2])),
		"accepted: the push was accepted", `read: the user has read it on device "phone"`,
		"now: no device waits for the message")
	wantInOrder(t, n.explain(t, "alice", fmt.Sprint(ids[3])), "read: a caller of the API says that the user has read it")

	// What is wrong is refused, and changes nothing.
	c := n.ws(t, true)
	c.login("v2", "alice", `,"ack":true,"device":"tablet"`)
	c.read(9, 0, `[]`)
	p := c.receive()
	for p.Op == protocol.OpMessage {
		p = c.receive()
	}
	if p.Op != protocol.OpError || p.Seq != 9 {
		t.Errorf("an empty packet is answered with %+v %s", p, p.Body)
	}
	n.call(t, "POST", "/v1/users/alice/read", `{}`).want(t, 400, `"field":"ids"`)
}
