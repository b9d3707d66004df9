package e2e_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"imgo/roles"
	"imgo/transport/transporttest"
)

func TestZZ(t *testing.T) {
	n := start(t, func(cfg *roles.Config) { cfg.Limits.PendingBytes = 64 * roles.KiB; cfg.Logging.Level = "debug" })
	conn := slowDial(t, n.TCPAddr().String())
	slow := &client{Client: &transporttest.Stream{Conn: conn}, t: t}
	slow.login("v2", "slow", `,"ack":true,"rooms":["r"]`)
	other := n.tcp(t)
	other.login("v2", "other", `,"rooms":["r"]`)
	const rounds = 300
	live := strings.Repeat("x", 32<<10)
	for i := range rounds {
		n.call(t, "POST", "/v1/push", `{"room":"r","body_text":"`+live+`"}`).want(t, 202)
		other.receive()
		if i%10 == 0 {
			n.call(t, "POST", "/v1/push", fmt.Sprintf(`{"users":["slow","other"],"body":%d}`, i)).want(t, 202)
			other.expect(5, fmt.Sprint(i))
		}
	}
	fmt.Println("dropped", n.metric(t, "imgo_comet_messages_total", `kind="live"`, `outcome="dropped"`))
	conn.(*net.TCPConn).SetReadBuffer(1 << 20)
	began := time.Now()
	k := 0
	for {
		p, err := slow.next()
		if err != nil {
			fmt.Println(k, time.Since(began), err)
			break
		}
		k++
		if p.ID != 0 || k%20 == 0 {
			fmt.Println(k, time.Since(began), p.ID, p.Op, len(p.Body))
		}
		if p.ID != 0 {
			slow.ack(p.ID)
		}
	}
	a := n.call(t, "GET", "/metrics", "")
	for l := range strings.Lines(a.body) {
		if strings.HasPrefix(l, "imgo_comet") && !strings.Contains(l, "bucket") {
			fmt.Print(l)
		}
	}
	fmt.Printf("%+v\n", n.user(t, "slow"))
}
