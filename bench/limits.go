//go:build linux

package main

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
	"time"

	"golang.org/x/sys/unix"
)

// This file is what the machine can do without imgo: the limits that imgo's
// figures are read beside.

// limitAddr is the first answer of a limit that listens.
type limitAddr struct {
	Addr  string `json:"addr"`
	Error string `json:"error,omitempty"`
}

// httpMain is a net/http server that reads each body and answers 202 with as
// many bytes as imgo does.
func httpMain(dec *json.Decoder, enc *json.Encoder) error {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding loopback does not wait
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	answer := []byte(`{"id":"281474976710656","user":"u00000000","sessions":1,"duplicate":false}` + "\n")
	length := strconv.Itoa(len(answer))
	server := &http.Server{
		ReadHeaderTimeout: callTimeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", length)
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write(answer)
		}),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	if err := enc.Encode(limitAddr{Addr: l.Addr().String()}); err != nil {
		return err
	}
	var ignored struct{}
	err = dec.Decode(&ignored) // until the parent ends it
	return errors.Join(err, server.Close())
}

// httpLimit starts the bare HTTP server.
func (b *bench) httpLimit() (*child, string, error) { return b.limit(childHTTP) }

// limit starts a limit that listens.
func (b *bench) limit(kind string) (*child, string, error) {
	c, err := b.spawn(kind)
	if err != nil {
		return nil, "", err
	}
	var a limitAddr
	if err := c.answer(statsTimeout, &a); err != nil {
		return nil, "", errors.Join(err, c.stop())
	}
	return c, a.Addr, nil
}

// writeRequest is what the writer is told: accept, then write.
type writeRequest struct {
	// Accept: wait until there are so many connections.
	Accept int `json:"accept,omitempty"`
	// Times: write Payload to all of them so often, one time each Every.
	Times   int           `json:"times,omitempty"`
	Every   time.Duration `json:"every,omitempty"`
	Payload []byte        `json:"payload,omitempty"`
}

// writeReply answers it.
type writeReply struct {
	Writes int64  `json:"writes"`
	Short  int64  `json:"short"` // writes that the kernel did not take whole
	Error  string `json:"error,omitempty"`
}

// writerMain is the limit of a broadcast: one thread that writes the same
// bytes to each accepted socket with write(2), and nothing else.
func writerMain(dec *json.Decoder, enc *json.Encoder) error {
	runtime.LockOSThread()
	listener, addr, err := listenRaw()
	if err != nil {
		return err
	}
	if err := enc.Encode(limitAddr{Addr: addr}); err != nil {
		return err
	}
	var fds []int
	for {
		var req writeRequest
		if err := dec.Decode(&req); err != nil {
			return err
		}
		var reply writeReply
		for len(fds) < req.Accept {
			fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
				continue
			}
			if err == nil {
				// As Go's net package, and so imgo, has it.
				err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			}
			if err != nil {
				reply.Error = fmt.Sprintf("accept: %v", err)
				break
			}
			fds = append(fds, fd)
		}
		started := time.Now()
		for n := range req.Times {
			time.Sleep(time.Until(started.Add(time.Duration(n) * req.Every)))
			for _, fd := range fds {
				reply.Writes++
				if n, err := unix.Write(fd, req.Payload); err != nil || n < len(req.Payload) {
					reply.Short++
				}
			}
		}
		if err := enc.Encode(reply); err != nil {
			return err
		}
	}
}

// listenRaw is a listening socket outside of the runtime's poller.
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

// syncs writes a little to a file and syncs it, again and again for d, and
// says how long each took: what no kept push can be faster than. The file has
// its size from the start, like Badger's.
func syncs(dir string, d time.Duration) (_ []time.Duration, err error) {
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
	}
	return all, nil
}
