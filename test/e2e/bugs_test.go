package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgo/config"
	"imgo/protocol"
	"imgo/roles/logic/httpapi"
	"imgo/transport/transporttest"
)

// These tests reproduce the other bugs of imgo's predecessors: crashes, hangs and wrong results.

// Bug 11: /1/push?uid=-1 crashed the router.
func TestAncestorBug11_NegativeUIDIsRefused(t *testing.T) {
	n := start(t, nil)
	w := n.witness(t)
	for _, uid := range []string{"-1", "-9223372036854775808"} {
		n.call(t, "POST", "/1/push?uid="+uid, "x").is(t, 200, `{"ret":65535}`)
		n.call(t, "POST", "/1/pushs", `{"m":1,"u":[`+uid+`]}`).is(t, 200, `{"ret":65535}`)
		n.call(t, "POST", "/goim/push/mids?operation=5&mids="+uid, "x").want(t, 200, `"code":0`)
		w.fine(t)
	}
	// As a user name "-1" is valid.
	c := n.tcp(t)
	c.login("v2", "-1", "")
	n.push(t, "-1", "x")
	c.expect(5, "x")
}

// Bug 12: a broadcast without comets divided by zero.
func TestAncestorBug12_BroadcastToNobody(t *testing.T) {
	n := start(t, nil)
	n.call(t, "POST", "/1/push/all", "x").is(t, 200, `{"ret":1}`)
	n.call(t, "POST", "/1/push/room?rid=1", "x").is(t, 200, `{"ret":1}`)
	n.call(t, "POST", "/goim/push/all?operation=5&speed=0", "x").want(t, 200, `"code":0`)
	n.call(t, "POST", "/goim/push/all?operation=5&speed=32", "x").want(t, 200, `"code":0`)
	n.call(t, "POST", "/v1/push", `{"all":true,"body":"x"}`).want(t, 202)
	n.call(t, "GET", "/1/count?type=room", "").want(t, 200, `"ret":1`)
	n.call(t, "GET", "/goim/online/top?type=live&limit=10", "").want(t, 200, `"code":0`)
	n.call(t, "GET", "/goim/online/total", "").want(t, 200, `"conn_count":0`)
	n.call(t, "GET", "/readyz", "").want(t, 200, `"ready":true`)
}

// Bug 14: there were no write deadlines, and a full channel blocked while the bucket's lock was
// held. One client that did not read stopped everybody.
func TestAncestorBug14_StuckClientHoldsNobodyUp(t *testing.T) {
	t.Parallel() // it mostly waits
	n := start(t, func(cfg *config.Config) {
		cfg.Limits.SlowTimeout = time.Second
		cfg.Limits.PendingBytes = 64 << 20
	})
	w := n.witness(t)
	moved := n.grows(t, closed(3002))
	stuck := &client{Client: &transporttest.Stream{Conn: slowDial(t, n.ClientAddr("tcp").String())}, t: t}
	stuck.login("v2", "stuck", `,"rooms":["r"]`)
	body := `{"room":"r","body_text":"` + strings.Repeat("x", 60<<10) + `"}`
	for range 20 {
		for range 10 {
			n.call(t, "POST", "/v1/push", body).want(t, 202)
		}
		w.fine(t)
	}
	moved()
	eventually(t, "its session is gone", func() bool { return !n.user(t, "stuck").Online })
	w.fine(t)
}

// Bug 16: a broadcast whose body was not JSON disconnected every WebSocket client.
func TestAncestorBug16_BroadcastThatIsNotJSON(t *testing.T) {
	n := start(t, nil)
	old, v2, tcp := n.ws(t, true), n.ws(t, true), n.tcp(t)
	old.login("imgo", "1", "")
	v2.login("v2", "2", "")
	tcp.login("imgo", "3", "")
	deep := strings.Repeat("[", 20_000)
	for _, test := range []struct{ body, asJSON string }{
		{"not JSON", `"not JSON"`},
		{`{"broken":`, `"{\"broken\":"`},
		{`{"a":1} {"b":2}`, `"{\"a\":1} {\"b\":2}"`},
		{"\xff\x00", `{"base64":"/wA="}`},
		{"line\nfeed and \"quotes\"", `"line\nfeed and \"quotes\""`},
		{`],"op":8,"x":[`, `"],\"op\":8,\"x\":["`},
		{deep, `"` + deep + `"`},
		{`{"fine":true}`, `{"fine":true}`},
	} {
		n.call(t, "POST", "/1/push/all", test.body).is(t, 200, `{"ret":1}`)
		b, err := old.Next()
		if err != nil || !json.Valid(b) {
			t.Fatalf("after %.40q: %.80q, %v", test.body, b, err)
		}
		if want := `[{"ver":0,"op":5,"seq":0,"body":` + test.asJSON + "}]\n"; string(b) != want {
			t.Errorf("got  %.100s\nwant %.100s", b, want)
		}
		v2.expect(5, test.asJSON)
		tcp.expect(5, test.body)
	}
	n.call(t, "POST", "/1/push/all", "").want(t, 200, `"ret":`)
	for _, c := range []*client{old, v2} {
		c.send(1, protocol.OpHeartbeat, 1, "")
		for p := c.receive(); p.Op != protocol.OpHeartbeatReply; p = c.receive() {
			if p.Op != 5 { // the push with the empty body
				t.Fatalf("got op %d %s", p.Op, p.Body)
			}
		}
	}
}

// Bug 17: the HTTP API had no authentication, and a replaced token stayed valid.
func TestAncestorBug17_APIKeysAndReplacedTokens(t *testing.T) {
	const key = "Bearer 0123456789abcdef"
	n := start(t, func(cfg *config.Config) {
		cfg.Auth.Mode = "token"
		cfg.HTTP.Keys = []httpapi.Key{{Name: "backend", Key: strings.TrimPrefix(key, "Bearer ")}}
	})
	for _, path := range []string{
		"POST /1/push?uid=1", "POST /1/pushs", "POST /1/push/room?rid=1", "POST /1/push/all", "GET /1/count?type=room",
		"POST /1/server/del?server=1", "POST /1/admin/token/new?uid=1&token=t&expire=9", "GET /1/msg/get?uid=1&mid=0&token=t",
		"POST /goim/push/keys?operation=5&keys=k", "POST /goim/push/mids?operation=5&mids=1", "POST /goim/push/all?operation=5",
		"GET /goim/online/total", "POST /v1/push", "POST /v1/push/batch", "GET /v1/users/1", "POST /v1/users/1/kick", "POST /v1/tokens",
		"POST /v1/tokens/revoke", "GET /v1/rooms", "GET /v1/stats", "GET /v1/nodes", "GET /v1/events",
	} {
		method, path, _ := strings.Cut(path, " ")
		moved := n.grows(t, apiProblem("unauthorized", "Authorization"))
		for i, header := range []string{"X: none", "Authorization: Bearer 0123456789abcdeX", "X-API-Key: "} {
			a := n.call(t, method, path, `{"user":"1","body":1}`, header)
			if throttled := i == 1 && a.status == 429; a.status != 401 && !throttled { // after some wrong keys
				t.Errorf("%s %s without the key (%s) was answered %d %s", method, path, header, a.status, a.body)
			}
			if i == 0 {
				moved()
			}
		}
	}
	n.call(t, "POST", "/1/push?uid=1", "x", "Authorization: "+key).is(t, 200, `{"ret":1}`)
	n.call(t, "POST", "/1/push?uid=1", "x", "X-API-Key: "+strings.TrimPrefix(key, "Bearer ")).is(t, 200, `{"ret":1}`)

	token := func(text string) {
		t.Helper()
		n.call(t, "POST", "/1/admin/token/new?uid=1&expire=60&token="+text, "", "Authorization: "+key).is(t, 200, `{"ret":1}`)
	}
	token("old")
	c := n.tcp(t)
	c.login("imgo", "old", "")
	token("new")
	// A user's devices have tokens of their own, so both are good. One that is revoked is good no more.
	c.send(1, protocol.OpHeartbeat, 2, "")
	c.expect(protocol.OpHeartbeatReply, "")
	n.tcp(t).login("imgo", "old", "")
	n.call(t, "POST", "/v1/tokens/revoke", `{"token":"old"}`, "Authorization: "+key).is(t, 200, `{"revoked":1}`)
	late := n.tcp(t)
	late.send(1, protocol.OpAuth, 1, "old")
	late.closedWith(3503, "revoked")
	n.call(t, "GET", "/1/msg/get?uid=1&mid=0&token=old", "", "Authorization: "+key).is(t, 200, `{"ret":65533}`)
	c = n.tcp(t)
	c.login("imgo", "new", "")
}

// Bug 18: the messages of a user had no order.
func TestAncestorBug18_OrderOfEachUser(t *testing.T) {
	n := start(t, nil)
	const users, each = 8, 40
	clients := make([][]*client, users)
	for u := range users {
		for _, as := range []string{"tcp", "text"} { // two devices for each user
			c := n.dialAs(t, as)
			c.login("v2", fmt.Sprint("u", u), fmt.Sprintf(`,"device":%q`, as))
			clients[u] = append(clients[u], c)
		}
	}
	// Each user has one caller, which waits for each response. Two more callers push to all users
	// at the same time.
	var pushing sync.WaitGroup
	ids := make([][]uint64, users)
	for u := range users {
		pushing.Go(func() {
			for i := range each {
				id, err := n.tryPush(fmt.Sprint("u", u), fmt.Sprintf(`{"own":%d}`, i))
				if err != nil {
					t.Error(err)
					return
				}
				ids[u] = append(ids[u], id)
			}
		})
	}
	all := make([]string, users)
	for u := range users {
		all[u] = fmt.Sprint("u", u)
	}
	for k := range 2 {
		pushing.Go(func() {
			for i := range each / 2 {
				request, _ := json.Marshal(map[string]any{"users": all, "body": map[string]int{fmt.Sprint("all", k): i}})
				if a, err := n.try("POST", "/v1/push", bytes.NewReader(request)); err != nil || a.status != 202 {
					t.Errorf("answered %d %s, %v", a.status, a.body, err)
					return
				}
			}
		})
	}
	pushing.Wait()
	for u := range users {
		for d, c := range clients[u] {
			next := map[string]int{}
			last := uint64(0)
			var own []uint64
			for range 2 * each {
				p := c.receive()
				var body map[string]int
				if err := json.Unmarshal(p.Body, &body); err != nil || len(body) != 1 || p.ID <= last {
					t.Fatalf("user %d device %d: message %d %s after %d, %v", u, d, p.ID, p.Body, last, err)
				}
				last = p.ID
				for caller, i := range body {
					if i != next[caller] {
						t.Fatalf("user %d device %d: %s's message %d came when %d was due", u, d, caller, i, next[caller])
					}
					next[caller]++
					if caller == "own" {
						own = append(own, p.ID)
					}
				}
			}
			if fmt.Sprint(own) != fmt.Sprint(ids[u]) {
				t.Errorf("user %d device %d: ids %v, answered were %v", u, d, own, ids[u])
			}
		}
	}
}

// Bug 19: SIGTERM ended the process without clean-up.
func TestAncestorBug19_TermCleansUp(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	args := freePorts("--auth-mode", "none", "--data-dir", filepath.Join(dir, "data"))
	p := serve(t, dir, args...)
	var clients []*client
	for i, as := range []string{"imgo", "goim", "v2"} {
		for _, c := range []*client{tcpTo(t, p.tcp), wsTo(t, p.ws, as != "goim")} {
			c.login(as, fmt.Sprint(100+i), "")
			clients = append(clients, c)
		}
	}
	acking := tcpTo(t, p.tcp)
	acking.login("v2", "acking", `,"ack":true`)
	acked, unacked := p.node.push(t, "acking", "acked"), p.node.push(t, "acking", "unacked")
	acking.expect(5, "acked")
	acking.expect(5, "unacked")
	acking.ack(acked)
	acking.send(2, protocol.OpHeartbeat, 2, "") // the reply shows that the acknowledgement was read
	acking.expect(protocol.OpHeartbeatReply, "")
	waiting := p.node.push(t, "away", "waiting")

	// Pushes continue during the stop. Each is answered, and each accepted message must exist after
	// the restart.
	var accepted []string
	var pushing sync.WaitGroup
	pushing.Go(func() {
		for i := range 900 { // a mailbox holds 1,000 messages
			body := fmt.Sprint("late ", i)
			if _, err := p.node.tryPush("late", body); err != nil {
				return
			}
			accepted = append(accepted, body)
		}
	})
	time.Sleep(50 * time.Millisecond)
	p.signal(syscall.SIGTERM)
	for _, c := range append(clients, acking) {
		c.closedWith(3001, "stopping")
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	pushing.Wait()
	if log := p.log.String(); !strings.Contains(log, `"message":"stopped"`) || strings.Contains(log, `"level":"error"`) {
		t.Errorf("the log is\n%s", log)
	}

	p = serve(t, dir, args...)
	if s := p.node.user(t, "acking"); s.Online || s.Pending != 1 {
		t.Errorf("a client that acknowledged one of two messages has %+v", s)
	}
	for _, test := range []struct {
		user   string
		bodies []string
		id     uint64
	}{{"acking", []string{"unacked"}, unacked}, {"away", []string{"waiting"}, waiting}, {"late", accepted, 0}} {
		c := tcpTo(t, p.tcp)
		c.login("v2", test.user, "")
		for _, body := range test.bodies {
			if m := c.expect(5, body); test.id != 0 && m.ID != test.id {
				t.Errorf("%q has id %d, want %d", body, m.ID, test.id)
			}
		}
	}
	if len(accepted) == 0 {
		t.Error("no push was accepted before the end")
	}
	p.stop()
}

// Bug 20: only IPv4 was supported.
func TestAncestorBug20_IPv6(t *testing.T) {
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this host has no IPv6: %v", err)
	}
	_ = probe.Close()
	t.Run("loopback", func(t *testing.T) {
		n := start(t, func(cfg *config.Config) {
			cfg.Comet.TCP, cfg.Comet.WS, cfg.HTTP.Listen = "[::1]:0", "[::1]:0", "[::1]:0"
		})
		w := n.witness(t)
		c := n.ws(t, true)
		c.login("imgo", "6", "")
		w.fine(t)
		var view struct{ Sessions []struct{ Address string } }
		n.call(t, "GET", "/v1/users/6", "").decode(t, &view)
		if len(view.Sessions) != 1 || !strings.HasPrefix(view.Sessions[0].Address, "[::1]:") {
			t.Errorf("the session is %+v", view)
		}
		n.push(t, "6", "hello")
		c.expect(5, `"hello"`)
	})
	t.Run("every address", func(t *testing.T) {
		n := start(t, func(cfg *config.Config) {
			cfg.Auth.Mode = "token"
			cfg.Comet.TCP, cfg.Comet.WS = ":0", ":0"
		})
		n.call(t, "POST", "/v1/tokens", `{"user":"6","token":"t6"}`).want(t, 201)
		for _, host := range []string{"127.0.0.1", "::1"} {
			for _, addr := range []net.Addr{n.ClientAddr("tcp"), n.ClientAddr("ws")} {
				at := net.JoinHostPort(host, fmt.Sprint(addr.(*net.TCPAddr).Port))
				var c *client
				if addr == n.ClientAddr("tcp") {
					c = tcpTo(t, at)
				} else {
					c = wsTo(t, at, false)
				}
				c.login("v2", "t6", "")
			}
		}
		if s := n.user(t, "6"); len(s.Sessions) != 4 {
			t.Errorf("%d sessions, want 4", len(s.Sessions))
		}
	})
}
