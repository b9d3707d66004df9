package ancestors_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/test/harness"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// packetAge is longer than the time after which a client's packet stands for the messages before it.
const packetAge = 3500 * time.Millisecond

// sdk is how a public client of the old servers behaves, faults included.
type sdk struct {
	name string
	// goim says that the server believes the member id.
	goim bool
	ws   bool
	// auth is the auth packet of a user, as it is sent.
	auth func(user string) []byte
	// text sends packets in text frames.
	text bool
	// bodies returns the bodies of the messages that the SDK gets out of what one read returned.
	bodies func(read []byte) []string
	// beat is the SDK's heartbeat.
	beat []byte
}

func packet(version int16, op, seq int32, body string) []byte {
	return transport.AppendPacket(nil, version, protocol.HeaderV1, op, seq, 0, []byte(body))
}

// firstPacket is the body of the first packet alone, which is all that some SDKs look at.
func firstPacket(read []byte) []string {
	p, _, err := transport.DecodePacket(read, 1<<20)
	if err != nil || p.Op < protocol.OpMessage || p.Op == protocol.OpAuthReply {
		return nil
	}
	return []string{string(p.Body)}
}

// onlyRaw is the bodies of the packets in one with operation 9. Any other packet is none of its messages.
func onlyRaw(read []byte) []string {
	p, _, err := transport.DecodePacket(read, 1<<20)
	if err != nil || p.Op != protocol.OpRaw {
		return nil
	}
	var bodies []string
	for rest := p.Body; len(rest) > 0; {
		var inner transport.Packet
		if inner, rest, err = transport.DecodePacket(rest, 1<<20); err != nil {
			return nil
		}
		bodies = append(bodies, string(inner.Body))
	}
	return bodies
}

// jsonBodies is the bodies of the messages in a frame of imgo 2016.
func jsonBodies(read []byte) []string {
	var objects []struct {
		Op   int32
		Body json.RawMessage
	}
	if json.Unmarshal(read, &objects) != nil {
		return nil
	}
	var bodies []string
	for _, o := range objects {
		if o.Op == protocol.OpMessage {
			bodies = append(bodies, string(o.Body))
		}
	}
	return bodies
}

var sdks = []sdk{
	{name: "imgo 2016, one packet a read", auth: func(u string) []byte { return packet(1, 7, 1, u) },
		bodies: firstPacket, beat: packet(1, 2, 2, "")},
	{name: "goim, one packet a read", goim: true,
		auth:   func(u string) []byte { return packet(1, 7, 1, `{"mid":`+u+`,"accepts":[1000]}`) },
		bodies: firstPacket, beat: packet(1, 2, 2, "")},
	{name: "goim, operation 9 only", goim: true, ws: true,
		auth:   func(u string) []byte { return packet(1, 7, 1, `{"mid":`+u+`,"accepts":[1000]}`) },
		bodies: onlyRaw, beat: packet(1, 2, 2, "")},
	{name: "goim, packets in text frames", goim: true, ws: true, text: true,
		auth:   func(u string) []byte { return packet(1, 7, 1, `{"mid":`+u+`,"accepts":[1000]}`) },
		bodies: onlyRaw, beat: packet(1, 2, 2, "")},
	{name: "version 2 in 16 bytes", auth: func(u string) []byte { return packet(2, 7, 2, u) },
		bodies: firstPacket, beat: packet(2, 2, 2, "")},
	{name: "imgo 2016 on WebSocket, names in another case", ws: true, text: true,
		auth:   func(u string) []byte { return []byte(`{"Ver":1,"Op":7,"Seq":1,"Body":"` + u + `"}`) },
		bodies: jsonBodies, beat: []byte(`{"Ver":1,"Op":2,"Seq":null}`)},
	{name: "imgo 2016 on WebSocket, binary frames", ws: true,
		auth:   func(u string) []byte { return []byte(`{"ver":1,"op":7,"seq":1,"body":"` + u + `"}`) },
		bodies: jsonBodies, beat: []byte(`{"ver":1,"op":2,"seq":1}`)},
}

// TestSDKsGetWhatWaits checks that each known kind of SDK gets all messages that waited for it, once, and
// that they count as delivered with its heartbeat and not before.
func TestSDKsGetWhatWaits(t *testing.T) {
	nodes := map[bool]*harness.Node{false: start(t, false), true: start(t, true)}
	for i, s := range sdks {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			n, user := nodes[s.goim], fmt.Sprint(900+i)
			c := &conversation{t: t, node: n, file: s.name}
			if !s.goim {
				c.call("POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":%q}`, user, user))
			}
			var want []string
			for k := range 10 {
				body := fmt.Sprintf(`{"n":%d}`, k)
				want = append(want, body)
				op := ""
				if s.goim {
					op = `,"op":1000`
				}
				if got := c.call("POST", "/v1/push", fmt.Sprintf(`{"user":%q,"body":%s%s}`, user, body, op)); !strings.HasPrefix(got, "= 202") {
					t.Fatalf("the push was answered %s", got)
				}
			}
			conn := s.dial(t, n, n.ClientAddr(map[bool]string{true: "ws", false: "tcp"}[s.ws]).String(), user)
			var got []string
			for len(got) < len(want) {
				read, err := conn.read()
				if err != nil {
					t.Fatalf("it got %q and then %v", got, err)
				}
				got = append(got, s.bodies(read)...)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("it got %q", got)
			}
			if pending := pendingOf(t, n, user); pending != len(want) {
				t.Errorf("%d of %d count as not delivered before its heartbeat", pending, len(want))
			}
			time.Sleep(packetAge)
			conn.send(t, s.beat)
			waittest.Eventually(t, "its heartbeat stands for them", func() bool { return pendingOf(t, n, user) == 0 })
		})
	}
}

// TestOutOfReachBehindAProxy checks that a message which only a proxy has got waits for the client's next
// session. The proxy's TCP acknowledges it.
func TestOutOfReachBehindAProxy(t *testing.T) {
	nodes := map[bool]*harness.Node{false: start(t, false), true: start(t, true)}
	for i, s := range sdks {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			n, user := nodes[s.goim], fmt.Sprint(950+i)
			c := &conversation{t: t, node: n, file: s.name}
			if !s.goim {
				c.call("POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":%q}`, user, user))
			}
			addr := n.ClientAddr(map[bool]string{true: "ws", false: "tcp"}[s.ws]).String()
			proxy := newProxy(t, addr)
			conn := s.dial(t, n, proxy.addr, user)
			if _, err := conn.read(); err != nil { // the auth reply
				t.Fatal(err)
			}
			proxy.lost.Store(true)
			op := ""
			if s.goim {
				op = `,"op":1000`
			}
			before := proxy.swallowed.Load()
			c.call("POST", "/v1/push", fmt.Sprintf(`{"user":%q,"body":{"lost":1}%s}`, user, op))
			waittest.Eventually(t, "the proxy has the message", func() bool { return proxy.swallowed.Load() > before })
			proxy.end()
			waittest.Eventually(t, "the session is gone", func() bool { return !online(t, n, user) })
			again := s.dial(t, n, addr, user)
			for {
				read, err := again.read()
				if err != nil {
					t.Fatalf("the message is lost: %v", err)
				}
				if got := s.bodies(read); len(got) > 0 {
					if got[0] != `{"lost":1}` {
						t.Errorf("it got %q", got)
					}
					return
				}
			}
		})
	}
}

// sdkConn is the connection of an SDK. A read is what one call of read() returns there.
type sdkConn struct {
	conn net.Conn
	ws   *transporttest.WebSocket
	text bool
}

func (s sdk) dial(t *testing.T, _ *harness.Node, addr, user string) *sdkConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, transporttest.WaitLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &sdkConn{conn: conn, text: s.text}
	if s.ws {
		ws, response, err := transporttest.Upgrade(conn, "/sub", "Origin: http://"+addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("the upgrade was answered %s", response.Status)
		}
		c.ws = ws
	}
	c.send(t, s.auth(user))
	return c
}

func (c *sdkConn) send(t *testing.T, b []byte) {
	t.Helper()
	if c.ws != nil {
		first := byte(0x82)
		if c.text {
			first = 0x81
		}
		b = transporttest.RawFrame(first, true, b)
	}
	if _, err := c.conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// read reads a frame on WebSocket. On TCP it is one call of read, whatever that returns.
func (c *sdkConn) read() ([]byte, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(transporttest.WaitLimit))
	if c.ws != nil {
		_, payload, err := c.ws.ReadFrame()
		return payload, err
	}
	buf := make([]byte, 64<<10)
	n, err := c.conn.Read(buf)
	return buf[:n], err
}

// proxy forwards connections to a node. Once they are lost it takes what the node sends, as a proxy does
// whose client is out of reach.
type proxy struct {
	addr      string
	lost      atomic.Bool
	swallowed atomic.Int64
	end       func()
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	done := make(chan struct{})
	ended := make(chan struct{})
	p.end = func() {
		_ = l.Close()
		select {
		case <-done:
		default:
			close(done)
		}
		<-ended
	}
	t.Cleanup(p.end)
	go func() {
		defer close(ended)
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer server.Close()
		up := make(chan struct{})
		go func() {
			defer close(up)
			_, _ = io.Copy(server, client)
		}()
		go func() {
			<-done
			_ = server.Close()
			_ = client.Close()
		}()
		buf := make([]byte, 16<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				break
			}
			if p.lost.Load() {
				p.swallowed.Add(int64(n))
				continue
			}
			if _, err := client.Write(buf[:n]); err != nil {
				break
			}
		}
		_ = client.Close()
		<-up
	}()
	return p
}

// stateOf asks the API for a user.
func stateOf(t *testing.T, n *harness.Node, user string) (state struct {
	Online  bool
	Pending int
}) {
	t.Helper()
	if _, err := harness.Call("GET", n.Base+"/v1/users/"+user, "", &state); err != nil {
		t.Fatal(err)
	}
	return state
}

func pendingOf(t *testing.T, n *harness.Node, user string) int { return stateOf(t, n, user).Pending }
func online(t *testing.T, n *harness.Node, user string) bool   { return stateOf(t, n, user).Online }
