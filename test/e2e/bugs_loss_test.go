package e2e_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgo/config"
	"imgo/internal/race"
	"imgo/protocol"
	"imgo/transport/transporttest"
)

// These tests reproduce bugs of imgo's predecessors from the outside. In this file are the bugs
// that lost messages, sessions or connections.

// Bug 1: a push to several users was not stored for the offline ones.
func TestAncestorBug01_MultiPushIsKeptForOfflineUsers(t *testing.T) {
	n := start(t, nil)
	on := n.tcp(t)
	on.login("imgo", "1", "")
	n.call(t, "POST", "/1/pushs", `{"m":{"a":1},"u":[1,2,3]}`).is(t, 200, `{"ret":1}`)
	on.expect(5, `{"a":1}`)
	for _, user := range []string{"2", "3"} {
		c := n.tcp(t)
		c.login("imgo", user, "")
		c.expect(5, `{"a":1}`)
	}
}

// Bug 3: the offline queue was deleted before it was delivered. Messages that arrived between the
// read and the deletion were lost. The replay raced with the registration.
func TestAncestorBug03_BacklogIsDeletedOnlyOnAck(t *testing.T) {
	n := start(t, nil)
	var ids []uint64
	for i := range 30 {
		ids = append(ids, n.push(t, "ann", fmt.Sprint(i)))
	}
	// The messages are delivered but not acknowledged, so each connection gets all of them.
	for range 2 {
		c := n.tcp(t)
		c.login("v2", "ann", `,"ack":true`)
		for i, id := range ids {
			if p := c.expect(5, fmt.Sprint(i)); p.ID != id {
				t.Fatalf("message %d has id %d, want %d", i, p.ID, id)
			}
		}
		_ = c.Close()
	}
	// Only some are acknowledged, with gaps. The next connection gets the others.
	c := n.tcp(t)
	c.login("v2", "ann", `,"ack":true`)
	for i := range ids {
		c.expect(5, fmt.Sprint(i))
	}
	for i, id := range ids {
		if i%3 != 1 {
			c.ack(id)
		}
	}
	eventually(t, "the acknowledgements are taken", func() bool { return n.user(t, "ann").Pending == 10 })
	_ = c.Close()
	c = n.ws(t, true)
	c.login("v2", "ann", `,"ack":true`)
	for i, id := range ids {
		if i%3 == 1 {
			if p := c.expect(5, fmt.Sprint(i)); p.ID != id {
				t.Fatalf("message %d has id %d, want %d", i, p.ID, id)
			}
			c.ack(id)
		}
	}
	eventually(t, "nothing waits any more", func() bool { return n.user(t, "ann").Pending == 0 })
}

// Bug 3, continued: messages that are pushed while a client connects and receives its mailbox must
// arrive too, once and in order. This holds for clients of each generation.
func TestAncestorBug03_NothingIsLostDuringReplay(t *testing.T) {
	n := start(t, acksByTCP)
	rounds := 4
	if race.Enabled {
		rounds = 2
	}
	for round := range rounds {
		for i, as := range []struct{ transport, generation string }{{"tcp", "v2"}, {"text", "v2"}, {"tcp", "imgo"}, {"text", "imgo"},
			{"ws", "goim"}} {
			user := fmt.Sprint(1000 + 10*round + i)
			const before, during = 20, 25
			for k := range before {
				n.push(t, user, fmt.Sprint(k))
			}
			var pushing sync.WaitGroup
			pushing.Go(func() {
				for k := range during {
					if _, err := n.tryPush(user, fmt.Sprint(before+k)); err != nil {
						t.Error(err)
						return
					}
				}
			})
			time.Sleep(time.Duration(round) * 3 * time.Millisecond) // another moment of the connect in each round
			c := n.dialAs(t, as.transport)
			more := ""
			if as.generation == "v2" {
				more = `,"ack":true`
			}
			c.login(as.generation, user, more)
			for k := range before + during {
				p := c.expect(5, fmt.Sprint(k))
				if as.generation == "v2" {
					c.ack(p.ID)
				}
			}
			pushing.Wait()
			c.send(1, protocol.OpHeartbeat, 9, "")
			if p := c.receive(); p.Op != protocol.OpHeartbeatReply {
				t.Fatalf("%s %s: after all messages: op %d %s", as.transport, as.generation, p.Op, p.Body)
			}
			eventually(t, "nothing waits any more", func() bool { return n.user(t, user).Pending == 0 })
		}
	}
}

// slowDial connects a client with a small receive buffer.
func slowDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: waitLimit, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
		if cerr != nil {
			return cerr
		}
		return err
	}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Bug 4: a full connection queue silently dropped the message and the rest of the batch.
func TestAncestorBug04_FullQueueCostsNobodyElse(t *testing.T) {
	n := start(t, nil)
	conn := slowDial(t, n.ClientAddr("tcp").String())
	slow := &client{Client: &transporttest.Stream{Conn: conn}, t: t}
	slow.login("v2", "slow", `,"ack":true,"rooms":["r"]`)
	other := n.tcp(t)
	other.login("v2", "other", `,"rooms":["r"]`)

	// These are more bytes than the kernel buffers for a client that does not read.
	const rounds = 300
	live := strings.Repeat("x", 20<<10)
	for i := range rounds {
		n.call(t, "POST", "/v1/push", `{"room":"r","body_text":"`+live+`"}`).want(t, 202)
		if p := other.receive(); len(p.Body) != len(live) {
			t.Fatalf("the other client got %d bytes", len(p.Body))
		}
		if i%10 == 0 {
			n.call(t, "POST", "/v1/push", fmt.Sprintf(`{"users":["slow","other"],"body":%d}`, i)).want(t, 202)
			other.expect(5, fmt.Sprint(i))
		}
	}
	dropped := func() int { return int(n.metric(t, "imgo_comet_messages_total", `kind="live"`, `outcome="dropped"`)) }
	if dropped() == 0 {
		t.Fatal("nothing was dropped: the client is not slow enough for this test")
	}
	// Now the client reads. It must get all kept messages in order, and every live message that was
	// not counted as dropped.
	if err := conn.(*net.TCPConn).SetReadBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	lives := 0
	for next := 0; next < rounds; {
		p := slow.receive()
		switch {
		case p.ID == 0 && len(p.Body) == len(live):
			lives++
		case string(p.Body) == fmt.Sprint(next):
			next += 10
			slow.ack(p.ID)
		default:
			t.Fatalf("got id %d op %d %.60q, want %d", p.ID, p.Op, p.Body, next)
		}
	}
	// A message may still be dropped after the first look at the counter.
	if n := dropped(); lives != rounds-n {
		t.Errorf("%d of %d came through, %d are counted as dropped", lives, rounds, n)
	}
	eventually(t, "nothing waits for it", func() bool { return n.user(t, "slow").Pending == 0 })
}

// Bug 8: deleting a server also dropped sessions of other servers for good.
func TestAncestorBug08_ServerDelLosesNobody(t *testing.T) {
	t.Parallel() // it mostly waits
	n := start(t, nil)
	c := n.tcp(t)
	c.login("imgo", "7", "")
	a := n.call(t, "GET", "/1/count?type=server", "")
	var count struct {
		Data []struct{ Server, Count int32 }
		Ret  int
	}
	a.decode(t, &count)
	if count.Ret != 1 || len(count.Data) != 1 || count.Data[0].Count != 1 {
		t.Fatalf("/1/count: %s", a.body)
	}
	// Delete another server: no session may be lost.
	n.call(t, "POST", fmt.Sprint("/1/server/del?server=", count.Data[0].Server+1), "").is(t, 200, `{"ret":1}`)
	if !n.user(t, "7").Online {
		t.Error("the user of another server is gone")
	}
	// Delete this server, which is alive. It announces its sessions again, and a message that is
	// pushed in between is not lost.
	n.call(t, "POST", fmt.Sprint("/1/server/del?server=", count.Data[0].Server), "").is(t, 200, `{"ret":1}`)
	n.call(t, "POST", "/1/push?uid=7", `"meanwhile"`).is(t, 200, `{"ret":1}`)
	c.expect(5, `"meanwhile"`)
	eventually(t, "the session is back", func() bool { return n.user(t, "7").Online })
	n.call(t, "POST", "/1/push?uid=7", `"again"`).is(t, 200, `{"ret":1}`)
	c.expect(5, `"again"`)
}

// Bug 9: two identical messages within one millisecond became one.
func TestAncestorBug09_IdenticalMessagesStayTwo(t *testing.T) {
	n := start(t, func(cfg *config.Config) { cfg.Auth.Mode = "token" })
	n.call(t, "POST", "/1/admin/token/new", "uid=9&token=t9&expire=60", "Content-Type: application/x-www-form-urlencoded").is(t, 200,
		`{"ret":1}`)
	const many = 40
	for range 2 { // first offline, then connected
		var pushing sync.WaitGroup
		for range many {
			pushing.Go(func() {
				if a, err := n.try("POST", "/1/push?uid=9", strings.NewReader(`{"same":1}`)); err != nil || a.body != `{"ret":1}` {
					t.Errorf("answered %s, %v", a.body, err)
				}
			})
		}
		pushing.Wait()
	}
	var got struct {
		Data struct {
			Msgs []struct {
				Msg string
				Mid int64
			}
		}
		Ret int
	}
	n.call(t, "GET", "/1/msg/get?uid=9&mid=0&token=t9", "").decode(t, &got)
	last := int64(0)
	for _, m := range got.Data.Msgs {
		if b, _ := base64.StdEncoding.DecodeString(m.Msg); string(b) != `{"same":1}` || m.Mid <= last {
			t.Fatalf("message %q has mid %d after %d", b, m.Mid, last)
		}
		last = m.Mid
	}
	if len(got.Data.Msgs) != 2*many {
		t.Errorf("%d messages, want %d", len(got.Data.Msgs), 2*many)
	}
	c := n.tcp(t)
	c.login("v2", "t9", "")
	var pushing sync.WaitGroup
	for range many {
		pushing.Go(func() {
			if _, err := n.tryPush("9", "same"); err != nil {
				t.Error(err)
			}
		})
	}
	ids := map[uint64]bool{}
	for range many {
		ids[c.expect(5, "same").ID] = true
	}
	pushing.Wait()
	if len(ids) != many {
		t.Errorf("%d ids for %d messages", len(ids), many)
	}
}

// Bug 10: a late disconnect deleted the mapping of a newer session.
func TestAncestorBug10_LateDisconnectKeepsTheNewerSession(t *testing.T) {
	n := start(t, nil)
	var older *client
	for i := range 20 {
		c := n.dialAs(t, []string{"tcp", "ws"}[i%2])
		c.login("goim", "10", `,"key":"k10","room_id":"live://1","accepts":[5]`)
		if older != nil {
			older.closedWith(3505, "same key")
		}
		// The end of the older session may be processed only now. The newer session must keep the
		// key, the user and the room.
		n.call(t, "POST", "/goim/push/keys?operation=5&keys=k10", fmt.Sprint("key ", i)).want(t, 200, `"code":0`)
		c.expect(5, fmt.Sprint("key ", i))
		n.call(t, "POST", "/v1/push", fmt.Sprintf(`{"user":"10","body_text":"user %d","kept":false}`, i)).want(t, 202, `"sessions":1`)
		c.expect(5, fmt.Sprint("user ", i))
		n.call(t, "POST", "/goim/push/room?operation=5&type=live&room=1", fmt.Sprint("room ", i)).want(t, 200, `"code":0`)
		c.expect(5, fmt.Sprint("room ", i))
		older = c
	}
	eventually(t, "one session is left", func() bool { return n.metric(t, "imgo_comet_sessions") == 1 })
	if s := n.user(t, "10"); len(s.Sessions) != 1 || s.Sessions[0].Key != "k10" {
		t.Errorf("the user has %+v", s.Sessions)
	}
}

// Bug 13: one accept error ended the accept loop for good. The test lets a server run out of file
// descriptors and checks that it recovers.
func TestAncestorBug13_AcceptErrorsPass(t *testing.T) {
	t.Parallel() // it mostly waits
	imgo := imgoBinary(t)
	p := launch(t, t.TempDir(), nil, "sh",
		append([]string{"-c", `ulimit -n 80 && exec "$@"`, "sh", imgo}, freePorts("--auth-mode", "none")...)...)
	p.ready()
	n := p.node
	here := tcpTo(t, p.tcp)
	here.login("v2", "here", "")
	push := func(body string) {
		t.Helper()
		n.push(t, "here", body) // over the open connection of the HTTP client
		here.expect(5, body)
	}
	push("before")
	for _, addr := range []string{p.tcp, p.ws} {
		var crowd []net.Conn
		for range 150 { // the kernel completes connections that the server cannot accept yet
			conn, err := net.DialTimeout("tcp", addr, waitLimit)
			if err != nil {
				t.Fatal(err)
			}
			crowd = append(crowd, conn)
		}
		push("among many")
		late := make(chan error, 1)
		go func() { // this client has to wait for a file descriptor
			conn, err := net.DialTimeout("tcp", addr, waitLimit)
			if err == nil {
				_ = conn.SetDeadline(time.Now().Add(waitLimit))
				if addr == p.tcp {
					_, err = io.WriteString(conn, packet(1, 7, 1, "late"))
				} else {
					_, err = io.WriteString(conn, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
				}
				if err == nil {
					_, err = io.ReadFull(conn, make([]byte, 16))
				}
				_ = conn.Close()
			}
			late <- err
		}()
		time.Sleep(300 * time.Millisecond) // accept fails during this time
		for _, conn := range crowd {
			_ = conn.Close()
		}
		if err := <-late; err != nil {
			t.Errorf("a client that had to wait at %s: %v", addr, err)
		}
	}
	push("after")
	c := wsTo(t, p.ws, true)
	c.login("v2", "new", "")
	if !strings.Contains(p.log.String(), "too many open files") {
		t.Errorf("no accept failed; the log is\n%s", &p.log)
	}
	p.stop()
}

// TestNewDataFolderHasNewIDs loses the data folder of a server. Clients that have handled its messages drop every message
// whose id they know, so the ids of the next server must be new.
func TestNewDataFolderHasNewIDs(t *testing.T) {
	n := start(t, nil)
	last := uint64(0)
	for range 4 {
		last = n.push(t, "u", `{"n":1}`)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	next := start(t, nil) // with a folder of its own
	if id := next.push(t, "u", `{"n":2}`); id <= last {
		t.Errorf("the first id is %d, but the lost folder had ids up to %d", id, last)
	}
}
