package batch_test

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imgo/transport/batch"
)

// pool returns a pool of n rings. It skips the test if the kernel does not allow io_uring, because
// io_uring cannot be installed.
func pool(t *testing.T, n int) *batch.Pool {
	t.Helper()
	p, err := batch.NewPool(n)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(p.Close)
	return p
}

// pair returns two connected sockets.
func pair(t *testing.T) (fd, peer int32) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return int32(fds[0]), int32(fds[1])
}

func read(t *testing.T, fd int32) string {
	t.Helper()
	b := make([]byte, 64<<10)
	n, err := unix.Read(int(fd), b)
	if err == unix.EAGAIN {
		return ""
	}
	if err != nil {
		t.Error(err)
		return ""
	}
	return string(b[:n])
}

// TestEachSocketGetsItsBytes sends batches of every size. Each socket must get its own bytes, at every
// start position of the ring.
func TestEachSocketGetsItsBytes(t *testing.T) {
	b := pool(t, 1).Get()
	var fds, peers [batch.Size]int32
	for i := range fds {
		fds[i], peers[i] = pair(t)
	}
	for round := range 3 * batch.Size {
		n := 2 + round%(batch.Size-1)
		for i := range n {
			b.Add(fds[i], fmt.Appendf(nil, "%d for %d", round, i))
		}
		if b.Len() != n {
			t.Fatalf("%d writes are said to wait, not %d", b.Len(), n)
		}
		if round%16 == 0 {
			runtime.GC() // The memory that the kernel reads must stay valid.
		}
		results := b.Send()
		if len(results) != n || b.Len() != 0 {
			t.Fatalf("%d results of %d writes, %d are left", len(results), n, b.Len())
		}
		for i, r := range results {
			if want := fmt.Sprintf("%d for %d", round, i); read(t, peers[i]) != want || int(r) != len(want) {
				t.Fatalf("round %d: socket %d got something else than %q, or the result %d is wrong", round, i, want, r)
			}
		}
	}
}

// TestResults checks that a send that fails has its own result and that the other sends of the batch
// succeed.
func TestResults(t *testing.T) {
	b := pool(t, 1).Get()
	good, peer := pair(t)
	full, _ := pair(t)
	gone, other := pair(t)
	_ = unix.Shutdown(int(other), unix.SHUT_RDWR)
	big := bytes.Repeat([]byte("x"), 1<<20)
	b.Add(full, big)
	b.Add(good, []byte("a"))
	first := append([]int32(nil), b.Send()...)
	if first[0] <= 0 || int(first[0]) == len(big) || first[1] != 1 {
		t.Fatalf("a write that is too large for its socket, and another: %v", first)
	}
	// A socket pair frees room in pieces, so this reads until all of it is free.
	for n := first[0]; n > 0; {
		b.Add(full, big)
		b.Add(good, []byte("b"))
		n = b.Send()[0]
		read(t, peer)
	}
	b.Add(full, big)
	b.Add(gone, []byte("c"))
	b.Add(-1, []byte("d"))
	b.Add(good, []byte("e"))
	got := b.Send()
	want := []int32{-int32(unix.EAGAIN), -int32(unix.EPIPE), -int32(unix.EBADF), 1}
	if fmt.Sprint(got) != fmt.Sprint(want) || read(t, peer) != "e" {
		t.Errorf("no room, a peer that is gone, no socket, a good one: %v, want %v", got, want)
	}
	b.Add(good, []byte("f"))
	if got := b.Send(); len(got) != 1 || got[0] != batch.NotSent || read(t, peer) != "" {
		t.Errorf("one by itself: %v, and it was sent", got)
	}
	if got := b.Send(); len(got) != 0 {
		t.Errorf("nothing: %v", got)
	}
}

func TestPool(t *testing.T) {
	p := pool(t, 2)
	a, b := p.Get(), p.Get()
	if a == nil || b == nil || a == b || p.Get() != nil {
		t.Fatal("a pool of two does not lend two, or lends a third")
	}
	p.Put(b)
	if p.Get() != b {
		t.Error("what came back is not lent again")
	}
	p.Put(nil)
	p.Close()
	p.Put(a) // This ring comes back after Close.
	if p.Get() != nil {
		t.Error("a closed pool lends")
	}
	var none *batch.Pool
	if none.Get() != nil {
		t.Error("no pool lends")
	}
	none.Put(nil)
	none.Close()
}

// TestConcurrent uses the rings from several goroutines, on any threads.
func TestConcurrent(t *testing.T) {
	p := pool(t, 3)
	var wg sync.WaitGroup
	for g := range 6 {
		a, x := pair(t)
		b, y := pair(t)
		wg.Go(func() {
			for i := range 500 {
				body := fmt.Appendf(nil, "%d/%d", g, i)
				batch := p.Get()
				if batch == nil {
					runtime.Gosched()
					continue
				}
				batch.Add(a, body)
				batch.Add(b, body)
				batch.Send()
				p.Put(batch)
				if read(t, x) != string(body) || read(t, y) != string(body) {
					t.Errorf("not what was sent")
				}
			}
		})
	}
	wg.Wait()
}
