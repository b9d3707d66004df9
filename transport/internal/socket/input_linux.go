package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"imgo/transport"
)

// inputSize is the buffer that a reader borrows, in bytes.
const inputSize = 2 << 10

// keptInput is up to how many bytes of an incomplete packet are copied out of
// a borrowed buffer into one of their size, and back again.
const keptInput = inputSize / 4

// input is what was read from a socket and has not been taken: b[r:w].
type input struct {
	b    []byte
	r, w int
}

func (in *input) borrowed() bool { return len(in.b) == inputSize }

func (a *Acceptor) borrow() *input {
	if in, ok := a.inputs.Get().(*input); ok {
		in.r, in.w = 0, 0
		return in
	}
	return &input{b: make([]byte, inputSize)}
}

// Buffered is what was read and has not been taken. The caller may change it.
func (p *Polled) Buffered() []byte {
	if p.in == nil {
		return nil
	}
	return p.in.b[p.in.r:p.in.w]
}

// Take drops n bytes of Buffered, of which nothing is good any more: the buffer
// may be somebody else's. A reader may leave after any Take.
func (p *Polled) Take(n int) {
	if p.in.r += n; p.in.r == p.in.w {
		p.Stow()
	}
}

// Err is why nothing more is to be taken, whatever is buffered: it is closed
// here, or the deadline has passed.
func (p *Polled) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err()
}

func (p *Polled) err() error {
	switch {
	case p.closing:
		return net.ErrClosed
	case p.expired:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Fill reads once, for a reader that cannot go on before Buffered has need
// bytes, which it will not have at once: memory grows only as bytes arrive.
// Errors are Socket.Read's, and transport.ErrIdle.
func (p *Polled) Fill(need int) error {
	p.mu.Lock()
	err, hung := p.err(), p.hung
	p.mu.Unlock()
	if err != nil {
		p.Stow()
		return err
	}
	if p.dry {
		p.Stow()
		return transport.ErrIdle
	}
	in := p.room(need)
	space := in.b[in.w:]
	n, errno := readNow(p.fd, space)
	switch {
	case errno == unix.EAGAIN:
		p.dry = true
		p.Stow()
		return transport.ErrIdle
	case errno != 0:
		return p.ended(errno)
	case n == 0:
		return p.ended(io.EOF)
	}
	in.w += n
	// A short read has emptied the socket, and what comes later is an event,
	// but for the end of the stream where that is known to be there already.
	p.dry = n < len(space) && !hung
	return nil
}

// ended notes that the peer has ended the stream, and says how.
func (p *Polled) ended(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return net.ErrClosed
	}
	p.gone = true
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
}

// room makes room behind what is buffered.
func (p *Polled) room(need int) *input {
	in := p.in
	switch {
	case in == nil:
		in = p.acceptor.borrow()
	case in.r > 0 && in.w > len(in.b)/2:
		in.w = copy(in.b, in.b[in.r:in.w])
		in.r = 0
	case in.w < len(in.b):
	case in.w <= keptInput:
		small := in
		in = p.acceptor.borrow()
		in.w = copy(in.b, small.b)
	default:
		grown := &input{b: make([]byte, max(min(need, 4*in.w), in.w+1))}
		grown.w = copy(grown.b, in.b)
		p.giveBack(in)
		in = grown
	}
	p.in = in
	return in
}

// Stow gives a borrowed buffer back and keeps what is in it.
func (p *Polled) Stow() {
	in := p.in
	if in == nil {
		return
	}
	have := in.b[in.r:in.w]
	switch {
	case len(have) == 0:
		p.giveBack(in)
		p.in = nil
	case in.borrowed() && len(have) <= keptInput || len(in.b) > 4*len(have)+keptInput:
		kept := &input{b: append([]byte(nil), have...), w: len(have)}
		p.giveBack(in)
		p.in = kept
	}
}

func (p *Polled) giveBack(in *input) {
	if in.borrowed() {
		p.acceptor.inputs.Put(in)
	}
}
