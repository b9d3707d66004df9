package e2e_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"imgo/roles"
	"imgo/store"
)

// TestDiskNearlyFull lets the free space fall below the reserve. Pushes are refused, and everything
// else continues. With enough space again, pushes are accepted without a restart.
func TestDiskNearlyFull(t *testing.T) {
	t.Parallel() // it mostly waits
	const reserve = 64 << 20
	var freeBytes atomic.Int64
	freeBytes.Store(10 * reserve)
	cfg := settings(t)
	cfg.Disk.Reserve = reserve
	n := startWith(t, cfg, roles.RunOptions{Faults: roles.Faults{
		Store: store.Faults{FreeBytes: func(string) (int64, error) { return freeBytes.Load(), nil }},
	}})

	before := n.tcp(t)
	before.login("v2", "before", `,"ack":true`)
	waiting := []uint64{n.push(t, "away", `"1"`), n.push(t, "away", `"2"`)}
	first := n.push(t, "before", `"first"`)
	if p := before.expect(5, `"first"`); p.ID != first {
		t.Errorf("message %d arrived as %d", first, p.ID)
	}

	freeBytes.Store(reserve - 1)
	eventually(t, "the server sees it", func() bool { return n.metric(t, "imgo_store_disk_free_bytes") == reserve-1 })
	moved := n.grows(t, apiProblem("disk_full", "none"))
	n.call(t, "POST", "/v1/push", `{"user":"before","body":"x"}`).want(t, 507, `"code":"disk_full"`, fmt.Sprint("disk.reserve is ", reserve),
		"lower disk.reserve")
	moved()
	n.call(t, "POST", "/v1/push", `{"users":["before","away"],"body":"x","idempotency_key":"k"}`).want(t, 507, "disk_full")
	n.call(t, "POST", "/v1/push/batch", `{"pushes":[{"user":"before","body":"x"},{"user":"away","body":"y"}]}`).want(t, 200, "disk_full")
	n.call(t, "POST", "/1/push?uid=1", `{"test":1}`).is(t, 200, `{"ret":65535}`)
	n.call(t, "POST", "/goim/push/mids?operation=5&mids=1", `x`).want(t, 200, `"code":-500`, "reserve")
	n.call(t, "GET", "/readyz", "").want(t, 200, `"ready":true`, fmt.Sprint("disk.reserve is ", reserve))

	// Live messages need no disk.
	n.call(t, "POST", "/v1/push", `{"user":"before","body":"live","kept":false}`).want(t, 202, `"sessions":1`)
	before.expect(5, `"live"`)
	n.call(t, "POST", "/v1/push", `{"all":true,"body":"everyone"}`).want(t, 202)
	before.expect(5, `"everyone"`)
	// Acknowledgements of connected users are accepted and made durable.
	before.ack(first)
	eventually(t, "the acknowledgement is taken", func() bool { return n.user(t, "before").Pending == 0 })
	// A user with a new device can connect, gets the waiting messages and acknowledges them.
	after := n.ws(t, true)
	after.login("v2", "away", `,"ack":true,"device":"new"`)
	for i, id := range waiting {
		if p := after.expect(5, fmt.Sprintf(`"%d"`, i+1)); p.ID != id {
			t.Errorf("message %d arrived as %d", id, p.ID)
		}
		after.ack(id)
	}
	eventually(t, "nothing is pending any more", func() bool { return n.user(t, "away").Pending == 0 })

	freeBytes.Store(2 * reserve)
	eventually(t, "pushes are taken again", func() bool {
		return n.call(t, "POST", "/v1/push", `{"user":"before","body":"again"}`).status == 202
	})
	before.expect(5, `"again"`)
	n.call(t, "GET", "/readyz", "").want(t, 200, `"disk":"ok"`)
	n.push(t, "away", `"3"`)
	after.expect(5, `"3"`)

	// The acknowledgements from the time of the full disk are still known.
	_ = before.Close()
	_ = after.Close()
	n = n.restart(t)
	if s := n.user(t, "away"); s.Pending != 1 {
		t.Errorf("after a restart: %+v, want only the last message pending", s)
	}
}
