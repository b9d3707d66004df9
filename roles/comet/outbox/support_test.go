package outbox_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"imgo/protocol"
	"imgo/roles/comet/outbox"
	"imgo/transport"
	"imgo/transport/batch"
	"imgo/transport/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const writeTimeout = 10 * time.Second

// owner is a fake session. All its fields are guarded by the outbox's lock.
type owner struct {
	t       *testing.T
	out     outbox.Outbox
	ids     []uint64 // that the kernel has, in order
	ends    []int64
	blocked int
	idle    int
	failed  error
	code    protocol.CloseCode
}

func (o *owner) Outbox() *outbox.Outbox { return &o.out }
func (o *owner) BlockedLocked()         { o.blocked++ }
func (o *owner) IdleLocked()            { o.idle++ }

func (o *owner) WrittenLocked(id uint64, end int64) {
	o.ids, o.ends = append(o.ids, id), append(o.ends, end)
}

func (o *owner) AbortLocked(err error) {
	o.failed = err
	if errors.Is(err, outbox.ErrSlow) {
		o.code = protocol.CloseSlow
	}
}

func (o *owner) CloseReasonLocked() (protocol.CloseCode, string) { return o.code, "" }

// newShared makes a Shared with a small bound.
func newShared(pendingBytes int) *outbox.Shared {
	return outbox.NewShared(outbox.Config{PendingBytes: pendingBytes, WriteTimeout: writeTimeout})
}

// newOwner makes an owner whose outbox confirms what it writes.
func newOwner(t *testing.T, shared *outbox.Shared, conn transport.Conn) *owner {
	t.Helper()
	o := &owner{t: t}
	o.out.Init(shared, conn, true)
	return o
}

func (o *owner) locked(do func()) {
	o.out.Lock()
	defer o.out.Unlock()
	do()
}

func (o *owner) start(first string) {
	o.locked(func() { o.out.StartLocked(o, []byte(first)) })
}

func (o *owner) enqueue(frame string, id uint64) {
	o.locked(func() { o.out.EnqueueLocked(o, []byte(frame), id) })
}

func (o *owner) flush() { o.locked(func() { o.out.FlushLocked(o) }) }

func (o *owner) wantIDs(want ...uint64) {
	o.t.Helper()
	o.locked(func() {
		if !slices.Equal(o.ids, want) {
			o.t.Errorf("the kernel has %v, want %v", o.ids, want)
		}
	})
}

// polledConn is a fake transport.Pollable: a socket with room for some bytes.
// Its methods are called with the outbox locked.
type polledConn struct {
	transport.Pollable // nil: what is not defined here is not called

	room     int    // bytes that the kernel takes
	got      []byte // what the kernel has
	rest     []byte // of a frame that the connection has taken
	err      error
	isClosed bool
	code     protocol.CloseCode
	written  int64
}

func (c *polledConn) TryWrite(frames [][]byte) (taken, left int, err error) {
	if c.err != nil {
		return 0, 0, c.err
	}
	for _, f := range frames {
		if len(c.rest) > 0 {
			break
		}
		n := min(c.room, len(f))
		c.got, c.rest = append(c.got, f[:n]...), f[n:]
		c.room -= n
		c.written += int64(n)
		taken++
	}
	return taken, len(c.rest), nil
}

func (c *polledConn) TryWriteOne(frame []byte) (taken, left int, err error) {
	return c.TryWrite([][]byte{frame})
}

func (c *polledConn) StartWrite(*batch.Batch, []byte) bool { return false }
func (c *polledConn) Written() int64                       { return c.written }

func (c *polledConn) Close(code protocol.CloseCode, _ string) error {
	if !c.isClosed {
		c.isClosed, c.code = true, code
	}
	return nil
}

// makeRoom makes room for n bytes, and calls Writable once the kernel has all
// that the connection took.
func (c *polledConn) makeRoom(o *owner, n int) {
	owed := len(c.rest) > 0
	rest := min(n, len(c.rest))
	c.got, c.rest = append(c.got, c.rest[:rest]...), c.rest[rest:]
	c.written += int64(rest)
	c.room += n - rest
	if owed && len(c.rest) == 0 {
		o.out.Writable(o)
	}
}

// peer is the client of a connection that a test writes to.
type peer interface {
	// received waits until nothing moves any more. It returns what the client has
	// got since the last call.
	received(o *owner) string
	// closed returns the code that the server closed the connection with.
	closed() (protocol.CloseCode, bool)
}

func (c *polledConn) received(o *owner) string {
	var all strings.Builder
	for len(c.got) > 0 {
		all.Write(c.got)
		n := len(c.got)
		c.got = nil
		c.makeRoom(o, n)
	}
	return all.String()
}

func (c *polledConn) closed() (protocol.CloseCode, bool) { return c.code, c.isClosed }

type pipePeer struct {
	t      *testing.T
	client *pipe.Client
}

func (p *pipePeer) received(*owner) string {
	var all strings.Builder
	buf := make([]byte, 1<<20)
	for synctest.Wait(); p.client.Unread() > 0; synctest.Wait() {
		n, err := p.client.Read(buf)
		if err != nil {
			p.t.Fatal(err)
		}
		all.Write(buf[:n])
	}
	return all.String()
}

func (p *pipePeer) closed() (protocol.CloseCode, bool) {
	synctest.Wait()
	code, _, closed := p.client.Closed()
	return code, closed
}

// bothKinds runs a test with a polled connection and with one that blocks. Both
// have room for the given number of bytes.
func bothKinds(t *testing.T, room int, test func(t *testing.T, conn transport.Conn, client peer)) {
	t.Run("polled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := &polledConn{room: room}
			test(t, conn, conn)
		})
	})
	t.Run("blocking", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, conn := pipe.New(pipe.Options{Buffer: room})
			test(t, conn, &pipePeer{t, client})
			_ = conn.Close(0, "")
		})
	})
}
