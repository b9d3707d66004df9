package comet_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// TestIncompletePacketsShareABound checks that clients without a token, which send
// parts of packets, fragments and requests, take no more memory together than
// limits.handshake_bytes. Those that hold most are told to come back. A client with
// a token and a small packet is not affected.
func TestIncompletePacketsShareABound(t *testing.T) {
	const clients, each, bound = 100, 60 << 10, 2 << 20
	packet := transport.AppendPacket(nil, 1, protocol.HeaderV1, protocol.OpAuth, 1, 0, make([]byte, each))
	for _, epoll := range []bool{true, false} {
		for _, test := range []struct {
			name string
			ws   bool
			sent func(upgraded *client) []byte
		}{
			{"packets", false, func(*client) []byte { return packet[:each] }},
			{"frames", true, func(c *client) []byte { return c.Frame(packet)[:each] }},
			{"fragments", true, func(*client) []byte {
				var b []byte
				for first, rest := byte(0x02), packet; len(rest) > 1000; first, rest = 0, rest[1000:] {
					b = append(b, transporttest.RawFrame(first, true, rest[:1000])...)
				}
				return b
			}},
		} {
			t.Run(fmt.Sprintf("epoll=%v/%s", epoll, test.name), func(t *testing.T) {
				s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
					listening(cfg)
					cfg.Epoll = epoll && !*goroutines
					cfg.HandshakeBytes, cfg.HandshakeTimeout = bound, time.Minute
				})
				var all []*client
				for range clients {
					c := s.dialTCP()
					if test.ws {
						c = s.dialWS(false)
					}
					if err := c.Send(test.sent(c)); err != nil {
						t.Fatal(err)
					}
					all = append(all, c)
				}
				const least = clients - bound/each
				eventually(t, "the others are refused", func() bool {
					return s.metric("imgo_comet_refused_total", "reason=handshake_bytes") >= least
				})
				if n := s.metric("imgo_comet_refused_total"); n > clients-bound/(2*each) {
					t.Errorf("%v of %d clients are refused, and fewer than half of the bound are left", n, clients)
				}
				if test.ws {
					all[0].wantEnd(protocol.CloseOverload) // in the close frame: the client's form is not known
				} else {
					all[0].closedWith(protocol.CloseOverload)
				}
				honest := s.dialTCP()
				honest.login("ann", "")
			})
		}
	}
}

// TestIncompleteRequestsShareABound is the same for upgrade requests.
func TestIncompleteRequestsShareABound(t *testing.T) {
	const clients, each, bound = 200, 30 << 10, 2 << 20
	for _, epoll := range []bool{true, false} {
		t.Run(fmt.Sprintf("epoll=%v", epoll), func(t *testing.T) {
			s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
				listening(cfg)
				cfg.Epoll = epoll && !*goroutines
				cfg.HandshakeBytes, cfg.HandshakeTimeout = bound, time.Minute
			})
			var first net.Conn
			for range clients {
				c := dial(t, s.Addr("ws"))
				if _, err := io.WriteString(c, "GET /sub HTTP/1.1\r\nHost: x\r\nCookie: "+strings.Repeat("x", each)); err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = c
				}
			}
			eventually(t, "the others are refused", func() bool {
				return s.metric("imgo_comet_refused_total", "reason=listener_budget") >= clients-bound/each
			})
			_ = first.SetReadDeadline(time.Now().Add(transporttest.WaitLimit))
			if resp, err := http.ReadResponse(bufio.NewReader(first), nil); err != nil || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("the first is answered with %v, %v, want 503", resp, err)
			}
			honest := s.dialWS(false)
			honest.login("ann", "")
		})
	}
}
