//go:build linux

package limit

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// DoorRequest is what Door is told first.
type DoorRequest struct {
	// Answers are what each connection is sent, the n-th for the n-th thing
	// that it says; what it says beyond them has no answer.
	Answers [][]byte `json:"answers"`
}

// Door is the limit of connecting, and of a replay: one thread that accepts,
// reads what each connection says and writes the same bytes back to each of
// them, and nothing else. What a socket has no room for at once is waited for.
func Door(dec *json.Decoder, enc *json.Encoder) error {
	var req DoorRequest
	if err := dec.Decode(&req); err != nil {
		return err
	}
	listener, addr, err := listenRaw()
	if err != nil {
		return err
	}
	d := &door{listener: listener, answers: req.Answers, said: map[int]int{}}
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
		ended <- dec.Decode(&ignored) // until the parent ends it, and with it the process
	}()
	return <-ended
}

// door is for one goroutine.
type door struct {
	listener, epoll int
	answers         [][]byte
	said            map[int]int // by socket: what it has said so far, in times
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
				err = d.hear(fd, buf)
			}
			if err != nil {
				return err
			}
		}
	}
}

// accept takes one connection; those behind it are another event.
func (d *door) accept() error {
	fd, _, err := unix.Accept4(d.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED):
		return nil
	case err == nil:
		// As Go's net package, and so imgo, has it.
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

// hear reads what one connection says, and answers.
func (d *door) hear(fd int, buf []byte) error {
	n, err := unix.Read(fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return nil
	case err != nil || n == 0:
		delete(d.said, fd)
		_ = unix.Close(fd) // it is gone already
		return nil
	}
	turn := d.said[fd]
	if turn == len(d.answers) {
		return nil
	}
	d.said[fd] = turn + 1
	answer := d.answers[turn]
	// Whatever else is wrong with the socket the rest's write says.
	if n, _ = unix.Write(fd, answer); n < len(answer) {
		// A client that went is found out about by its next event.
		if err := writeRest(fd, answer[max(n, 0):]); err != nil && !gone(err) {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return nil
}

// gone: the other end has closed the connection.
func gone(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }
