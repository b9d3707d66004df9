package transport

import (
	"errors"

	"imgo/transport/batch"
)

// ErrIdle is the error of TryReadPacket if no whole packet has arrived.
var ErrIdle = errors.New("no whole packet has arrived")

// Pollable is a Conn that holds neither a goroutine nor a buffer while nothing
// happens on it. Its owner is notified instead.
//
// Before Attach a Pollable is used like any Conn. After Attach the owner calls
// TryReadPacket and TryWrite in place of ReadStep and Write. The connection then goes on
// after the listener's handle function has returned, until the owner calls Release.
//
// One goroutine at a time is the reader. The reader calls TryReadPacket until
// it returns ErrIdle, and then Park. If Park reports true, nobody is the reader
// until the connection calls Readable; the goroutine of that call is then the
// reader. Attach, TryReadPacket, Park, Rest and Gone are for the reader alone.
// All other methods may be called by any goroutine.
type Pollable interface {
	Conn

	// Attach sets the Waker that the connection notifies. A second call replaces
	// the Waker.
	Attach(Waker)
	// TryReadPacket is ReadStep that does not block: it returns ErrIdle if nothing
	// more has arrived. It reads at most once and handles at most one frame, so a
	// caller knows what each call costs.
	TryReadPacket() (Packet, error)
	// Park ends the caller's part as the reader, after ErrIdle. It reports false
	// if something has come meanwhile: the caller is still the reader and tries
	// again. After true the connection calls Readable once, when there is
	// something to read.
	Park() bool
	// Rest is Park without an attempt to read first. It reports true if nothing
	// has arrived as far as this process knows; it does not ask the kernel.
	Rest() bool
	// Gone reports whether the peer has ended the stream and all that it sent
	// was read. It is a system call.
	Gone() bool

	// TryWrite hands frames to the kernel without waiting. The frames are in the
	// connection's form (Form.Framed, if Traits says so). taken counts the frames
	// that the connection has taken. left counts the bytes of taken frames that
	// the kernel has no room for yet.
	//
	// If left is not 0, the connection takes no more frames, and calls Writable
	// once when it does again. left is also at least 1, with no frame taken,
	// between StartWrite and FinishWrite. Frames are not changed, and the
	// connection keeps them until they are sent. After an error only Close and
	// Release are of use.
	TryWrite(frames [][]byte) (taken, left int, err error)
	// TryWriteOne is TryWrite of one frame.
	TryWriteOne(frame []byte) (taken, left int, err error)
	// StartWrite adds the frame to a batch, which sends frames of many
	// connections in one system call. If it reports false, nothing was added and
	// the caller uses TryWriteOne.
	//
	// After true the connection is reserved, and no lock is held: FinishWrite
	// must follow once the batch was sent. Until then nothing overtakes the
	// frame. TryWrite takes no frames, Close sends its close frame after it, and
	// Release waits. Reading goes on as usual.
	StartWrite(b *batch.Batch, frame []byte) bool
	// FinishWrite ends what StartWrite began, with the frame's result in the
	// batch. It returns what TryWriteOne returns.
	FinishWrite(frame []byte, result int32) (taken, left int, err error)

	// TryRelease is Release if that does not have to wait for the client. If it
	// reports false, Release is still to be called.
	TryRelease() bool
	// Release closes the connection if it is open, waits up to the listener's
	// Linger for the client to close its side, and frees the connection. It is
	// the last call: no goroutine reads or writes any more.
	Release()
}

// Waker is notified of what happens on a Pollable. Both methods are called on a
// goroutine that all connections share, so they must not block. No lock of the
// connection is held, so they may call its methods.
type Waker interface {
	// Readable says that there is something to read, or that the connection or
	// its read deadline has ended. The caller's goroutine is now the reader, and
	// may hand that part to another one. If alone, nothing else has happened on
	// any connection. It is then cheaper to read at once, for some ten
	// microseconds and without waiting, than to wake another goroutine.
	Readable(alone bool)
	// Writable says that the kernel has all bytes of the taken frames.
	Writable()
}
