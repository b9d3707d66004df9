package tcp_test

import (
	"io"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/batch"
	"imgo/transport/transporttest"
)

// BenchmarkBatch measures the cost of a frame in a batch of 64 frames to 64 connections, including the
// kernel. cpu-ns/frame is the CPU time of this process, including its clients. Other load on the
// machine changes it little.
func BenchmarkBatch(b *testing.B) {
	pool, err := batch.NewPool(1)
	if err != nil {
		b.Skip(err)
	}
	defer pool.Close()
	ready, end := make(chan transport.Pollable, batch.Size), make(chan struct{})
	l := listen(b, transport.ListenConfig{})
	transporttest.Serve(b, l, func(c transport.Conn) {
		p, ok := c.(transport.Pollable)
		if !ok {
			return
		}
		ready <- p
		<-end
	})
	defer close(end)
	var conns []transport.Pollable
	var readers sync.WaitGroup
	defer readers.Wait()
	for range batch.Size {
		client := transporttest.Dial(b, l, nil)
		defer func() { _ = client.Close() }()
		readers.Go(func() { _, _ = io.Copy(io.Discard, client) })
		conns = append(conns, <-ready)
	}
	frame := transport.NewMessage(protocol.OpMessage, 1, make([]byte, 200)).Frame(transport.FormGoim)
	writes := pool.Get()
	before := cpuTime(b)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, c := range conns {
			if c.StartWrite(writes, frame) {
				n++
			}
		}
		results := writes.Send()
		for i := range n {
			_, _, _ = conns[i].FinishWrite(frame, results[i])
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N*len(conns)), "cpu-ns/frame")
}

// BenchmarkStartFinishWrite measures the part of BenchmarkBatch outside the kernel.
func BenchmarkStartFinishWrite(b *testing.B) {
	pool, err := batch.NewPool(1)
	if err != nil {
		b.Skip(err)
	}
	defer pool.Close()
	ready, end := make(chan transport.Pollable, 1), make(chan struct{})
	l := listen(b, transport.ListenConfig{})
	transporttest.Serve(b, l, func(c transport.Conn) {
		ready <- c.(transport.Pollable)
		<-end
	})
	defer close(end)
	transporttest.Dial(b, l, nil)
	c := <-ready
	frame := make([]byte, 200)
	writes := pool.Get()
	before := cpuTime(b)
	b.ReportAllocs()
	for b.Loop() {
		if !c.StartWrite(writes, frame) {
			b.Fatal("the connection is busy")
		}
		writes.Send() // Send leaves a single frame to FinishWrite.
		if _, left, err := c.FinishWrite(frame, int32(len(frame))); left != 0 || err != nil {
			b.Fatal(left, err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/frame")
}

// cpuTime returns the CPU time of this process in nanoseconds.
func cpuTime(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
