package comet_test

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// attackers is how many connections attack at a time. One that the server has ended
// comes back after a pause, since the attackers share the server's processors.
const (
	attackers      = 4
	reconnectPause = 20 * time.Millisecond
)

// attack is a way to send a server what costs it work. Each connection sends first
// once, and then again and again more, until the server ends it. Then there is
// another connection.
type attack struct {
	name     string
	ws       bool
	loggedIn bool
	first    []byte
	more     []byte
	pause    time.Duration // after each write; a write of one byte costs the attacker as much as the server
}

func attacks() []attack {
	repeat := func(b []byte, n int) []byte { return bytes.Repeat(b, n) }
	packet := func(op int32, body string) []byte {
		return transport.AppendPacket(nil, 2, protocol.HeaderV1, op, 0, 0, []byte(body))
	}
	ids := string(make([]byte, 8000)) // a thousand acknowledgements
	early := transport.AppendPacket(nil, 1, protocol.HeaderV1, protocol.OpHeartbeat, 0, 0, nil)
	huge := transport.AppendPacket(nil, 2, protocol.HeaderV1, protocol.OpAuth, 0, 0, make([]byte, 60<<10))
	fragment := transporttest.RawFrame(0x00, true, nil)
	begin := transporttest.RawFrame(0x02, true, nil)
	ping, pong := transporttest.RawFrame(0x89, true, nil), transporttest.RawFrame(0x8a, true, nil)
	frame := func(b []byte) []byte { return transporttest.RawFrame(0x82, true, b) }
	return []attack{
		{name: "pings before auth", ws: true, more: repeat(ping, 1000)},
		{name: "pongs before auth", ws: true, more: repeat(pong, 1000)},
		{name: "empty fragments before auth", ws: true, first: begin, more: repeat(fragment, 1000)},
		{name: "packets before auth", more: repeat(early, 100)},
		{name: "incomplete packets before auth", first: huge[:50<<10], more: []byte{0}, pause: 100 * time.Microsecond},
		{name: "pings", ws: true, loggedIn: true, more: repeat(ping, 1000)},
		{name: "pongs", ws: true, loggedIn: true, more: repeat(pong, 1000)},
		{name: "empty fragments", ws: true, loggedIn: true, first: begin, more: repeat(fragment, 1000)},
		{name: "heartbeats", loggedIn: true, more: repeat(packet(protocol.OpHeartbeat, ""), 1000)},
		{name: "heartbeats in frames", ws: true, loggedIn: true, more: repeat(frame(packet(protocol.OpHeartbeat, "")), 1000)},
		{name: "large packets", loggedIn: true, more: packet(protocol.OpSend, string(make([]byte, 60<<10)))},
		{name: "acknowledgements", loggedIn: true, more: repeat(packet(protocol.OpAck, ids), 10)},
		{name: "joins", loggedIn: true, more: repeat(append(packet(protocol.OpJoinRoom, "r"), packet(protocol.OpLeaveRoom, "r")...), 100)},
		{name: "single bytes", loggedIn: true, first: huge[:16], more: []byte{0}, pause: 100 * time.Microsecond},
	}
}

// measured is for a run without the race detector and without other tests beside it.
var measured = flag.Bool("attacks", false, "compare the heartbeats under attack with those of a quiet run")

// TestAttacks checks that whatever some clients send, another client's heartbeats are
// answered. With -attacks they may take at most three times as long as when all is
// quiet. Quiet and attacked runs alternate, and the best of some rounds counts, because
// the machine has more to do than this test.
func TestAttacks(t *testing.T) {
	for _, epoll := range []bool{true, false} {
		for _, a := range attacks() {
			t.Run(fmt.Sprintf("epoll=%v/%s", epoll, a.name), func(t *testing.T) {
				s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
					listening(cfg)
					cfg.Epoll = epoll && !*goroutines
				})
				beside := s.dialTCP() // at the listener that is attacked
				if a.ws {
					beside = s.dialWS(false)
				}
				beside.login("beside", "")
				const rounds = 8
				var best float64
				for round := range rounds {
					quiet := beats(beside)
					stop := s.attack(a)
					attacked := beats(beside)
					stop()
					if !*measured {
						return
					}
					factor := float64(attacked) / float64(quiet)
					if round == 0 || factor < best {
						best = factor
					}
					if best <= 3 {
						t.Logf("round %d: a heartbeat takes %s, and %s under attack", round, quiet, attacked)
						return
					}
				}
				t.Errorf("heartbeats take %.1f times as long under attack, in the best of %d rounds", best, rounds)
			})
		}
	}
}

// beats returns the median time of a heartbeat.
func beats(c *client) time.Duration {
	c.t.Helper()
	took := make([]time.Duration, 100)
	for i := range took {
		time.Sleep(time.Millisecond) // a client that beats at once again would find the server awake
		began := time.Now()
		c.send(2, protocol.OpHeartbeat, 1, "")
		c.expect(protocol.OpHeartbeatReply, 0, "")
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// attack begins an attack. It returns once it is under way, and stop ends it.
func (s *server) attack(a attack) (stop func()) {
	s.t.Helper()
	var wg sync.WaitGroup
	var stopped atomic.Bool
	var begun atomic.Int32
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	for range attackers {
		wg.Go(func() {
			for !stopped.Load() {
				conn, err := s.attacker(a)
				if err != nil {
					time.Sleep(reconnectPause)
					continue
				}
				mu.Lock()
				open[conn] = true
				mu.Unlock()
				_, err = conn.Write(a.first)
				begun.Add(1)
				for err == nil && !stopped.Load() {
					_, err = conn.Write(a.more)
					time.Sleep(a.pause)
				}
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
				_ = conn.Close()
				time.Sleep(reconnectPause)
			}
		})
	}
	eventually(s.t, "the attack is under way", func() bool { return begun.Load() >= attackers })
	return func() {
		stopped.Store(true)
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
}

// attacker returns a connection that is ready for the attack.
func (s *server) attacker(a attack) (net.Conn, error) {
	scheme := "tcp"
	if a.ws {
		scheme = ws.Scheme
	}
	conn, err := net.DialTimeout("tcp", s.Addr(scheme).String(), transporttest.WaitLimit)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &client{Client: &transporttest.Stream{Conn: conn}, t: s.t}
	if a.ws {
		upgraded, _, err := transporttest.Upgrade(conn, "/sub")
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		c.Client = upgraded
	}
	if a.loggedIn {
		auth := transport.AppendPacket(nil, 2, protocol.HeaderV1, protocol.OpAuth, 1, 0, []byte(`{"token":"attacker","ack":true}`))
		if err := c.Send(c.Frame(auth)); err != nil {
			_ = conn.Close()
			return nil, err
		}
		if _, err := c.Next(); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, nil
}
