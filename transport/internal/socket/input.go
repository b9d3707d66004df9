package socket

// inputSize is the size of the buffer that a reader borrows, in bytes.
const inputSize = 2 << 10

// keptInput bounds the bytes of an incomplete packet that are copied out of a
// borrowed buffer into one of their size, and back again.
const keptInput = inputSize / 4

// readBuffer has what was read from a socket and was not taken. While it is
// empty it holds no memory: the buffer is borrowed from the Acceptor.
type readBuffer struct{ b *input }

// input is a buffer of which b[r:w] was read and not taken.
type input struct {
	b    []byte
	r, w int
}

func (in *input) borrowed() bool { return len(in.b) == inputSize }

// borrowInput lends a buffer of inputSize.
func (a *Acceptor) borrowInput() *input {
	if in, ok := a.inputs.Get().(*input); ok {
		in.r, in.w = 0, 0
		return in
	}
	return &input{b: make([]byte, inputSize)}
}

// returnInput takes back a buffer, if it is a borrowed one.
func (a *Acceptor) returnInput(in *input) {
	if in.borrowed() {
		a.inputs.Put(in)
	}
}

// bytes is what was read and not taken.
func (rb *readBuffer) bytes() []byte {
	if rb.b == nil {
		return nil
	}
	return rb.b.b[rb.b.r:rb.b.w]
}

// discard drops the first n bytes.
func (rb *readBuffer) discard(n int, a *Acceptor) {
	if rb.b.r += n; rb.b.r == rb.b.w {
		rb.stow(a)
	}
}

// room returns the space behind what was read, at least one byte of it.
func (rb *readBuffer) room(need int, a *Acceptor) []byte {
	in := rb.b
	switch {
	case in == nil:
		in = a.borrowInput()
	case in.r > 0 && in.w > len(in.b)/2:
		in.w = copy(in.b, in.b[in.r:in.w])
		in.r = 0
	case in.w < len(in.b):
	case in.w <= keptInput:
		small := in
		in = a.borrowInput()
		in.w = copy(in.b, small.b)
	default:
		grown := &input{b: make([]byte, max(min(need, 4*in.w), in.w+1))}
		grown.w = copy(grown.b, in.b)
		a.returnInput(in)
		in = grown
	}
	rb.b = in
	return in.b[in.w:]
}

// stow gives a borrowed buffer back if few bytes are in it, and keeps these.
func (rb *readBuffer) stow(a *Acceptor) {
	in := rb.b
	if in == nil {
		return
	}
	have := in.b[in.r:in.w]
	switch {
	case len(have) == 0:
		a.returnInput(in)
		rb.b = nil
	case in.borrowed() && len(have) <= keptInput || len(in.b) > 4*len(have)+keptInput:
		kept := &input{b: append([]byte(nil), have...), w: len(have)}
		a.returnInput(in)
		rb.b = kept
	}
}
