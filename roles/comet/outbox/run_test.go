package outbox_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"

	"imgo/protocol"
	"imgo/transport"
)

// TestRun: the messages of a run arrive in order, each in a frame of its own,
// whether or not several of them went in one write.
func TestRun(t *testing.T) {
	const messages = 500
	for _, confirm := range []bool{false, true} {
		bothKinds(t, 1<<20, func(t *testing.T, conn transport.Conn, client peer) {
			o := &owner{t: t}
			o.out.Init(newShared(1<<20), conn, confirm)
			o.start("")
			var want bytes.Buffer
			o.locked(func() {
				run := o.out.StartRunLocked(transport.FormV2, messages*200)
				for id := uint64(1); id <= messages; id++ {
					body := []byte(strings.Repeat("x", int(id*7%300)))
					if !run.AddLocked(protocol.OpMessage, id, body) {
						t.Fatalf("no room for message %d", id)
					}
					want.Write(transport.AppendMessage(nil, transport.FormV2, protocol.OpMessage, id, body))
				}
				run.EndLocked()
				o.out.FlushLocked(o)
			})
			if got := client.received(o); got != want.String() {
				t.Errorf("received %d bytes, want %d", len(got), want.Len())
			}
			if told := len(o.ids); told != messages && confirm || told > 0 && !confirm {
				t.Errorf("the owner was told of %d messages", told)
			}
		})
	}
}

// TestRunOverTheBound: a run takes what the bound has room for, and at least one
// message.
func TestRunOverTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newShared(100)
		conn := &polledConn{room: 1 << 20}
		o := newOwner(t, shared, conn)
		o.start("first")
		add := func(size int) (added int) {
			o.locked(func() {
				run := o.out.StartRunLocked(transport.FormV2, 10*size)
				for run.AddLocked(protocol.OpMessage, 1, make([]byte, size)) {
					added++
				}
				run.EndLocked()
				o.out.FlushLocked(o)
			})
			return added
		}
		if n := add(100 - protocol.HeaderV2); n != 1 {
			t.Errorf("%d messages as large as the bound were taken", n)
		}
		if n := add(1000); n != 1 {
			t.Errorf("%d messages over the bound were taken", n)
		}
		if n := add(0); n != 100/protocol.HeaderV2 {
			t.Errorf("%d empty messages were taken", n)
		}
	})
}

// TestRunsDoNotMix: the memory of a run is lent again only when the kernel has
// what is in it, or else never.
func TestRunsDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 80 << 10 // so large that the memory is lent
		shared := newShared(1 << 20)
		slow := &polledConn{room: 10}
		first := newOwner(t, shared, slow)
		run := func(o *owner, body string) string {
			o.locked(func() {
				run := o.out.StartRunLocked(transport.FormV2, size)
				run.AddLocked(protocol.OpMessage, 1, []byte(body))
				run.EndLocked()
				o.out.FlushLocked(o)
			})
			return string(transport.AppendMessage(nil, transport.FormV2, protocol.OpMessage, 1, []byte(body)))
		}
		first.start("")
		want := run(first, strings.Repeat("a", size/2))
		dropped := newOwner(t, shared, &polledConn{room: 10})
		dropped.start("")
		run(dropped, strings.Repeat("b", size/2))
		dropped.locked(dropped.out.DropLocked)
		for range 10 {
			fast := &polledConn{room: 1 << 20}
			o := newOwner(t, shared, fast)
			o.start("")
			run(o, strings.Repeat("c", size/2))
		}
		if got := slow.received(first); got != want {
			t.Error("the memory of a run was used again before the client had it")
		}
	})
}
