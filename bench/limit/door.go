//go:build linux

package limit

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// DoorRequest is the first message to Door.
type DoorRequest struct {
	// Answers are the responses to each connection: the n-th read is answered by the n-th
	// entry. Further reads get no response.
	Answers [][]byte `json:"answers"`
}

// Door is the limit of connecting and of a replay. One thread accepts connections,
// reads from each and writes the same bytes to each, and does nothing else. If a
// socket has no room for an answer, the thread waits for it.
func Door(dec *json.Decoder, enc *json.Encoder) error {
	var req DoorRequest
	if err := dec.Decode(&req); err != nil {
		return err
	}
	listener, addr, err := listenRaw()
	if err != nil {
		return err
	}
	d := &door{listener: listener, answers: req.Answers, answered: map[int]int{}}
	if err := d.open(); err != nil {
		return err
	}
	if err := enc.Encode(Addr{Addr: addr}); err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() {
		runtime.LockOSThread()
		ended <- d.run()
	}()
	go func() {
		var ignored struct{}
		ended <- dec.Decode(&ignored) // until the parent closes the input; the process then ends
	}()
	return <-ended
}

// door is the state of Door. It is not safe for concurrent use.
type door struct {
	listener, epoll int
	answers         [][]byte
	answered        map[int]int // number of answered reads of each socket
}

func (d *door) open() error {
	err := unix.SetNonblock(d.listener, true)
	if err == nil {
		d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	}
	if err == nil {
		err = d.watch(d.listener)
	}
	if err != nil {
		return fmt.Errorf("watch the listener: %w", err)
	}
	return nil
}

func (d *door) watch(fd int) error {
	return unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (d *door) run() error {
	events, buf := make([]unix.EpollEvent, 256), make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(d.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for events: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if fd := int(e.Fd); fd == d.listener {
				err = d.accept()
			} else {
				err = d.serve(fd, buf)
			}
			if err != nil {
				return err
			}
		}
	}
}

// accept accepts one connection. A further waiting connection causes another event.
func (d *door) accept() error {
	fd, _, err := unix.Accept4(d.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED):
		return nil
	case err == nil:
		// Go's net package sets this option on every connection, so imgo's sockets have it
		// too.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = d.watch(fd)
	}
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	return nil
}

// serve reads from one connection and answers.
func (d *door) serve(fd int, buf []byte) error {
	n, err := unix.Read(fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return nil
	case err != nil || n == 0:
		delete(d.answered, fd)
		_ = unix.Close(fd) // the other end has already closed it
		return nil
	}
	turn := d.answered[fd]
	if turn == len(d.answers) {
		return nil
	}
	d.answered[fd] = turn + 1
	answer := d.answers[turn]
	// An error of this write shows again at the write of the rest.
	if n, _ = unix.Write(fd, answer); n < len(answer) {
		// The next event of a client that is gone closes its socket.
		if err := writeRest(fd, answer[max(n, 0):]); err != nil && !gone(err) {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return nil
}

// gone reports whether the other end has closed the connection.
func gone(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }
