package outbox_test

import (
	"testing"
	"time"

	"imgo/protocol"
	"imgo/roles/comet/outbox"
	"imgo/transport"
)

// sinkConn is a polled connection that takes everything at once.
type sinkConn struct{ transport.Pollable }

func (sinkConn) TryWrite(frames [][]byte) (int, int, error) { return len(frames), 0, nil }
func (sinkConn) TryWriteOne([]byte) (int, int, error)       { return 1, 0, nil }
func (sinkConn) Write(_ time.Time, _ ...[]byte) error       { return nil }
func (sinkConn) Written() int64                             { return 0 }
func (sinkConn) Close(_ protocol.CloseCode, _ string) error { return nil }

// BenchmarkEnqueue is one frame to an idle outbox whose socket has room.
func BenchmarkEnqueue(b *testing.B) {
	o := &owner{}
	o.out.Init(newShared(1<<20), sinkConn{}, false)
	o.start("first")
	frame := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		o.out.Lock()
		o.out.EnqueueLocked(o, frame, 1)
		o.out.Unlock()
	}
}

// BenchmarkHeld is ten frames that are held and then flushed.
func BenchmarkHeld(b *testing.B) {
	o := &owner{}
	o.out.Init(newShared(1<<20), sinkConn{}, false)
	o.start("first")
	frame := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		o.out.Lock()
		o.out.HoldLocked()
		for range 10 {
			o.out.EnqueueLocked(o, frame, 1)
		}
		o.out.FlushLocked(o)
		o.out.Unlock()
	}
}

// BenchmarkWorker is one frame to each of a thousand outboxes.
func BenchmarkWorker(b *testing.B) {
	shared := newShared(1 << 20)
	owners := make([]*owner, 1000)
	for i := range owners {
		owners[i] = &owner{}
		owners[i].out.Init(shared, sinkConn{}, false)
		owners[i].start("first")
	}
	w := outbox.NewWorker(shared)
	frame := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		w.Begin(len(owners))
		for _, o := range owners {
			w.Lock(&o.out)
			w.EnqueueLocked(o, frame, 1)
			w.Unlock(&o.out)
		}
		w.End()
	}
}
