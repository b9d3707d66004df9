package e2e_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles"
	"imgo/store"
)

// TestBlockedStoreHoldsUpOneClient blocks the store during the read of a connecting user's mailbox.
// Meanwhile clients on the same listener are answered, and a user of another partition can connect.
// In the end the blocked client is admitted.
func TestBlockedStoreHoldsUpOneClient(t *testing.T) {
	var once atomic.Bool
	blocked, free := make(chan struct{}), make(chan struct{})
	unblock := sync.OnceFunc(func() { close(free) })
	cfg := settings(t)
	n := startWith(t, cfg, roles.RunOptions{Faults: roles.Faults{Store: store.Faults{ReadMailbox: func(_ int32, user string) {
		if user == "cold" && once.CompareAndSwap(false, true) {
			close(blocked)
			<-free
		}
	}}}})
	t.Cleanup(unblock) // before the node stops

	for _, scheme := range []string{"tcp", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			warm := n.dialAs(t, scheme)
			warm.login("v2", "warm", "")
			cold := n.dialAs(t, scheme)
			cold.send(2, protocol.OpAuth, 1, `{"token":"cold"}`)
			select {
			case <-blocked:
			case <-time.After(waitLimit):
				t.Fatal("the mailbox of the cold user is not read")
			}
			for i := range int32(5) {
				warm.send(2, protocol.OpHeartbeat, i, "")
				warm.expect(protocol.OpHeartbeatReply, "")
			}
			n.dialAs(t, scheme).login("v2", userElsewhere("cold", cfg.Kept.Partitions), "")
			if scheme == "tcp" {
				return // still blocked for the other transport
			}
			unblock()
			if p := cold.receive(); p.Op != protocol.OpAuthReply {
				t.Errorf("the cold user got operation %d", p.Op)
			}
		})
	}
}

// userElsewhere returns a user in another partition than the given user.
func userElsewhere(user string, partitions int) string {
	for i := 0; ; i++ {
		if other := fmt.Sprint("user", i); envelope.Partition(other, partitions) != envelope.Partition(user, partitions) {
			return other
		}
	}
}
