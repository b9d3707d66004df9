package comet_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/batch"
)

// polledSink is a sink for comet's poller.
type polledSink struct {
	sink
	waker atomic.Value
}

func (c *polledSink) Close(code protocol.CloseCode, reason string) error {
	c.once.Do(func() {
		close(c.closed)
		go c.waker.Load().(wakerBox).Readable(false)
	})
	return nil
}

// wakerBox lets an atomic.Value hold wakers of different types.
type wakerBox struct{ transport.Waker }

func (c *polledSink) TryReadPacket() (transport.Packet, error) {
	if c.auth.CompareAndSwap(false, true) {
		return transport.Packet{Version: 2, Op: protocol.OpAuth, Seq: 1, Body: []byte(`{"token":"ann","ack":true}`)}, nil
	}
	select {
	case <-c.closed:
		return transport.Packet{}, io.EOF
	default:
		return transport.Packet{}, transport.ErrIdle
	}
}

func (c *polledSink) TryWrite(frames [][]byte) (taken, left int, err error) {
	c.frames.Add(int64(len(frames)))
	return len(frames), 0, nil
}

func (c *polledSink) TryWriteOne([]byte) (taken, left int, err error) {
	c.frames.Add(1)
	return 1, 0, nil
}

func (c *polledSink) Attach(w transport.Waker)             { c.waker.Store(wakerBox{w}) }
func (c *polledSink) Park() bool                           { return true }
func (c *polledSink) Rest() bool                           { return c.auth.Load() }
func (c *polledSink) StartWrite(*batch.Batch, []byte) bool { return false }
func (c *polledSink) FinishWrite([]byte, int32) (taken, left int, err error) {
	return 1, 0, nil
}
func (c *polledSink) Gone() bool       { return false }
func (c *polledSink) TryRelease() bool { return true }
func (c *polledSink) Release()         {}

// BenchmarkPolled measures one message to every session, and one kept message to one session. The
// poller watches the connections.
func BenchmarkPolled(b *testing.B) {
	const sessions = 10_000
	cfg := comet.DefaultConfig()
	cfg.Name = "c1"
	logic := &fakeLogic{}
	c, err := comet.New(cfg, logic, nopLog, nil)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	var frames atomic.Int64
	for range sessions {
		c.Serve(&polledSink{sink: sink{closed: make(chan struct{}), frames: &frames}})
	}
	for frames.Load() < sessions {
		time.Sleep(time.Millisecond)
	}
	push := func(b *testing.B, d *envelope.Delivery) {
		if _, err := c.Push(ctx, &envelope.PushRequest{Deliveries: []*envelope.Delivery{d}}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("broadcast", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			push(b, &envelope.Delivery{Op: 5, Body: make([]byte, 200), All: true})
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sessions, "ns/session")
	})
	id, session := uint64(0), logic.session(0)
	push(b, &envelope.Delivery{Backlog: &envelope.Backlog{To: &envelope.Address{Comet: "c1", Session: session}}})
	b.Run("kept", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			push(b, &envelope.Delivery{
				Id: id + 1, Op: 5, Body: make([]byte, 200), To: []*envelope.Target{{Session: session, Prev: id}},
			})
			id++
		}
	})
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
