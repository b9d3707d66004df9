package comet_test

import (
	"strings"
	"testing"

	"imgo/protocol"
	"imgo/roles/comet"
)

// TestSendBuffer checks that unread data fills the kernel's buffer up to SendBuffer, and then the
// session's queue. Without SendBuffer the kernel takes megabytes over loopback.
func TestSendBuffer(t *testing.T) {
	const buffer, pushed = 8 << 10, 512 << 10
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.SendBuffer, cfg.PendingBytes = buffer, 2*pushed
	})
	c := s.dialTCP()
	c.login("ann", "")
	body := strings.Repeat("x", 4<<10)
	for range pushed / len(body) {
		s.push(s.live(0, protocol.OpMessage, body))
	}
	// The client's receive buffer has the default size of net.ipv4.tcp_rmem, 128 KiB.
	// It grows only for a client that reads.
	eventually(t, "most of it waits in the session's queue", func() bool {
		return s.metric("imgo_comet_pending_bytes") > pushed/2
	})
}
