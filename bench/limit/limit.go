//go:build linux

package limit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Addr is the first answer of a limit that listens.
type Addr struct {
	Addr string `json:"addr"`
}

// Serve runs an HTTP server until the input ends. Its first answer is an Addr. After that it answers every JSON object
// with what answer returns.
func Serve(dec *json.Decoder, enc *json.Encoder, handler http.HandlerFunc, answer func() any) error {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding loopback does not wait
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: handler}
	go func() { _ = server.Serve(l) }() // it returns when the server is closed
	err = enc.Encode(Addr{Addr: l.Addr().String()})
	for err == nil {
		var ignored struct{}
		if err = dec.Decode(&ignored); err == nil { // the input's end is the end
			err = enc.Encode(answer())
		}
	}
	return errors.Join(err, server.Close())
}

// HTTP runs a net/http server that reads each body and answers 202 with as many bytes
// as imgo.
func HTTP(dec *json.Decoder, enc *json.Encoder) error {
	answer := []byte(`{"id":"281474976710656","user":"u00000000","sessions":1,"duplicate":false}` + "\n")
	length := strconv.Itoa(len(answer))
	return Serve(dec, enc, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", length)
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(answer)
	}, func() any { return nil })
}

// WriteRequest is a request to Writer: first accept, then write.
type WriteRequest struct {
	// Accept is the number of connections to wait for.
	Accept int `json:"accept,omitempty"`
	// Times is how often to write Payload to every socket, once in each Every. If Every is
	// 0, the threads write as fast as the sockets accept the bytes.
	Times   int           `json:"times,omitempty"`
	Every   time.Duration `json:"every,omitempty"`
	Payload []byte        `json:"payload,omitempty"`
	// Threads is the number of threads that share the sockets. 0 means 1.
	Threads int `json:"threads,omitempty"`
	// Collect is the time between two garbage collections during the writes. Writers are
	// then goroutines instead of locked threads. 0 means no collections.
	Collect time.Duration `json:"collect,omitempty"`
}

// WriteReply is the answer to a WriteRequest.
type WriteReply struct {
	Writes int64 `json:"writes"`
	Short  int64 `json:"short"` // writes that the kernel accepted only in part
	// Pauses are the stop-the-world times of the collections.
	Pauses []time.Duration `json:"pauses,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Writer is the limit of a broadcast. Its threads write the same bytes to each
// accepted socket with write(2) and do nothing else. At a fixed rate, bytes for which
// a socket has no room are lost. Otherwise the thread waits for the socket.
func Writer(dec *json.Decoder, enc *json.Encoder) error {
	listener, addr, err := listenRaw()
	if err != nil {
		return err
	}
	if err := enc.Encode(Addr{Addr: addr}); err != nil {
		return err
	}
	var fds []int
	for {
		var req WriteRequest
		if err := dec.Decode(&req); err != nil {
			return err
		}
		for len(fds) < req.Accept && err == nil {
			var fd int
			fd, _, err = unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
				err = nil
				continue
			}
			if err == nil {
				// Go's net package sets this option on every connection, so imgo's sockets have it
				// too.
				err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			}
			fds = append(fds, fd)
		}
		reply := WriteReply{}
		if err != nil {
			reply.Error = fmt.Sprintf("accept: %v", err)
		} else {
			reply = write(fds, &req)
		}
		if err := enc.Encode(reply); err != nil {
			return err
		}
	}
}

// write executes a request.
func write(fds []int, req *WriteRequest) (sum WriteReply) {
	threads := max(1, req.Threads)
	replies := make([]WriteReply, threads)
	pauses := func() []time.Duration { return nil }
	if req.Collect > 0 {
		pauses = collect(req.Collect)
	}
	var wg sync.WaitGroup
	for i := range threads {
		share := fds[len(fds)*i/threads : len(fds)*(i+1)/threads]
		wg.Go(func() {
			if req.Collect == 0 {
				runtime.LockOSThread()
			}
			replies[i] = writeAll(share, req)
		})
	}
	wg.Wait()
	sum.Pauses = pauses()
	for _, r := range replies {
		sum.Writes += r.Writes
		sum.Short += r.Short
		sum.Error += r.Error
	}
	return sum
}

// collect runs garbage collections until the caller calls end. end returns the
// stop-the-world time of each collection, as the sum of its two stops.
func collect(every time.Duration) (end func() []time.Duration) {
	stop, done := make(chan struct{}), make(chan []time.Duration)
	go func() {
		var all []time.Duration
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		seen := m.NumGC
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-stop:
				done <- all
				return
			}
			runtime.GC()
			runtime.ReadMemStats(&m)
			for ; seen < m.NumGC; seen++ {
				all = append(all, time.Duration(m.PauseNs[seen%uint32(len(m.PauseNs))]))
			}
		}
	}()
	return func() []time.Duration {
		close(stop)
		return <-done
	}
}

func writeAll(fds []int, req *WriteRequest) (reply WriteReply) {
	started := time.Now()
	for n := range req.Times {
		time.Sleep(time.Until(started.Add(time.Duration(n) * req.Every)))
		for _, fd := range fds {
			reply.Writes++
			n, err := unix.Write(fd, req.Payload)
			if err == nil && n == len(req.Payload) {
				continue
			}
			reply.Short++
			if req.Every > 0 {
				continue
			}
			if err := writeRest(fd, req.Payload[max(n, 0):]); err != nil {
				reply.Error = fmt.Sprintf("write: %v", err)
				return reply
			}
		}
	}
	return reply
}

// writeRest blocks until the socket has accepted all of b. It returns an error if the
// socket accepts nothing for 10 s.
func writeRest(fd int, b []byte) error {
	const timeout = 10_000 // ms
	for len(b) > 0 {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(ready, timeout); err == nil && n == 0 {
			return errors.New("the reader has stopped")
		}
		n, err := unix.Write(fd, b)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// listenRaw returns a listening socket that Go's network poller does not manage.
func listenRaw() (fd int, addr string, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		return 0, "", fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, "", fmt.Errorf("listen: %w", err)
	}
	in4, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return 0, "", fmt.Errorf("listen: bound to %T", name)
	}
	return fd, fmt.Sprintf("127.0.0.1:%d", in4.Port), nil
}

// Syncs repeatedly writes a few bytes to a file and syncs it, for the duration d. It
// returns the duration of each sync, which is a lower bound for a kept push. One sync
// starts in each every; with 0, each starts right after the previous one. The file has
// its full size from the start, like Badger's files.
func Syncs(dir string, d, every time.Duration) (_ []time.Duration, err error) {
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return nil, fmt.Errorf("make a file to sync: %w", err)
	}
	defer func() {
		if e := errors.Join(f.Close(), os.Remove(f.Name())); err == nil {
			err = e
		}
	}()
	const size, step = 1 << 20, 256
	zeros := make([]byte, size)
	if _, err := f.Write(zeros); err != nil {
		return nil, fmt.Errorf("fill the file to sync: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	var all []time.Duration
	begun := time.Now()
	for at := int64(0); time.Since(begun) < d; at = (at + step) % size {
		started := time.Now()
		zeros[0]++
		if _, err := f.WriteAt(zeros[:step], at); err != nil {
			return nil, fmt.Errorf("write to the file to sync: %w", err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return nil, fmt.Errorf("sync: %w", err)
		}
		all = append(all, time.Since(started))
		if every > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(len(all)) * every)))
		}
	}
	return all, nil
}
