// Package transport faces clients: the packet and JSON codecs of
// docs/protocol.md, the Conn that comet holds whatever a client speaks, and
// the encode-once Message that every connection shares. Its subfolders bring
// connections: tcp, ws (WebSocket) and pipe (in memory, for tests); one
// conformance suite (transporttest) holds all of them to Conn's contract.
//
// It knows nothing of users, sessions or delivery.
package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"imgo/protocol"
	"imgo/transport/batch"
)

// Packet is one packet from or to a client.
type Packet struct {
	Version int16
	Op      int32
	Seq     int32
	// ID is the kept message's id; only version 2 carries it.
	ID uint64
	// Body is the packet's own: nobody else reads or writes its bytes.
	// From a JSON frame it is the raw JSON of "body" (nil where absent).
	Body []byte
}

// Form is a wire form: what an encoded frame looks like on a connection.
type Form uint8

// The wire forms. A frame of a binary form is one packet; a frame of a JSON
// form is an array of one object, the payload of one text message.
const (
	FormImgo     Form = iota // binary v1 header, pushes carry version 0 (imgo 2016)
	FormGoim                 // binary v1 header, pushes carry version 1 (goim v2)
	FormV2                   // binary v2 header with the message id
	FormImgoJSON             // JSON, pushes carry "ver":0 (imgo 2016)
	FormV2JSON               // JSON, "ver":2 with "id"
	plainForms

	// NumForms counts the forms, framed ones included.
	NumForms = 2 * plainForms
)

// JSON says whether the form is a text form.
func (f Form) JSON() bool { return f.plain() >= FormImgoJSON }

// Framed is form f with the header of a WebSocket frame before each frame: what
// a Pollable over WebSocket writes. A server's frames are not masked, so they
// too are the same for every client and are encoded once.
func (f Form) Framed() Form { return f.plain() + plainForms }

func (f Form) framed() bool { return f >= plainForms }
func (f Form) plain() Form  { return f % plainForms }

// Conn is one client connection. ReadPacket is for one goroutine at a time,
// Write for one at a time; the two may run together, and everything else may
// be called from anywhere at any time.
type Conn interface {
	// ReadPacket blocks for the client's next packet. A client that breaks
	// the protocol gives a *ProtocolError; the end of the stream io.EOF or
	// io.ErrUnexpectedEOF; the read deadline os.ErrDeadlineExceeded. After
	// any error the connection is only good for Write and Close.
	ReadPacket() (Packet, error)
	// SetReadDeadline bounds the ReadPacket under way and the following ones.
	SetReadDeadline(t time.Time) error
	// Write sends whole frames in the connection's form, in as few system
	// calls as it can, and blocks until the kernel has taken all of them or
	// the deadline has passed (os.ErrDeadlineExceeded). After an error the
	// stream may be torn: only Close is allowed. Frames are not changed and
	// not kept.
	Write(deadline time.Time, frames ...[]byte) error
	// Text says whether the client speaks JSON frames; true or false from
	// its first packet on, false before.
	Text() bool
	// Traits are the properties of the connection's transport.
	Traits() Traits
	// Remote is the client's address.
	Remote() netip.AddrPort
	// Unacked counts the bytes that were written but that the peer's TCP has
	// not acknowledged (SIOCOUTQ on Linux); once closed, what it was then. ok
	// is false where nobody can know. Read Written first and Unacked second:
	// Written - Unacked bytes, or more, have then arrived.
	Unacked() (n int64, ok bool)
	// Written counts the bytes handed to the kernel so far, framing included.
	Written() int64
	// LastSign is when the client last gave a sign of life: a packet, or a
	// WebSocket ping or pong.
	LastSign() time.Time
	// Close ends the connection: on WebSocket with a close frame of code and
	// reason where that can be sent without waiting, on TCP by closing. A
	// ReadPacket or Write under way returns. It never blocks for the peer,
	// and a second call does nothing. Code 0 is a plain end (1000 on ws).
	Close(code protocol.CloseCode, reason string) error
}

// Traits are what the users of a connection have to know of its transport. They
// are the same for all connections of a Listener.
type Traits struct {
	// Scheme names the transport: "tcp", "ws" or "pipe".
	Scheme string
	// ClientPicksForm says that the first packet shows whether the client speaks
	// JSON frames. No frame may be written before that packet.
	ClientPicksForm bool
	// Framed says that TryWrite wants frames in Form.Framed, which have the
	// transport's own frame header before each frame.
	Framed bool
}

// ErrIdle is TryReadPacket's: no whole packet has arrived.
var ErrIdle = errors.New("nothing has arrived")

// Pollable is a Conn that costs neither a goroutine nor a buffer while nothing
// happens on it: its owner is told when something does. Until Attach it is
// used like any Conn. From then on its ReadPacket, SetReadDeadline excepted,
// and Write are not for use, and it outlives the listener's handle function:
// the owner ends it with Release.
type Pollable interface {
	Conn
	// Attach sets whom the connection tells, also in place of another. Only
	// whoever reads may call it.
	Attach(Waker)
	// TryReadPacket is ReadPacket for one who does not wait: ErrIdle.
	TryReadPacket() (Packet, error)
	// Park is what a reader does after ErrIdle: true says that it is to leave,
	// and that Readable will be called, once; false that something has come
	// meanwhile, and it is to try again.
	Park() bool
	// Rest is Park for one who has not read since the last packet, or not yet:
	// true where nothing is at hand, for which it need not ask the kernel.
	Rest() bool
	// TryWrite hands frames, in the connection's form (framed on WebSocket), to
	// the kernel without waiting. taken is how many frames are the connection's
	// business now; left counts the bytes of these, and of earlier ones, that
	// the kernel had no room for. Where left is not 0 Writable will be called,
	// once, when it is, and until then nothing more is taken. After an error
	// only Close is of use. Frames are not changed, and kept until they are out.
	TryWrite(frames [][]byte) (taken, left int, err error)
	// TryWriteOne is TryWrite of one frame.
	TryWriteOne(frame []byte) (taken, left int, err error)
	// StartWrite is the beginning of a TryWriteOne that goes in one system call
	// with those of other connections: false: nothing was added to the batch,
	// and TryWriteOne is to be called. After true the connection is locked:
	// nothing else of it may be called before FinishWrite, which is to be called
	// once the batch was sent, with the write's result.
	StartWrite(b *batch.Batch, frame []byte) bool
	// FinishWrite is the end of it, and says what TryWriteOne would have.
	FinishWrite(frame []byte, result int32) (taken, left int, err error)
	// Gone says whether the peer has ended the stream and left nothing behind
	// that is to be read. Only whoever reads may call it; it is a system call.
	Gone() bool
	// TryRelease is Release where that need not wait for the client; false:
	// Release is still to be called.
	TryRelease() bool
	// Release is the last call, once nothing is read or written any more: it
	// closes the connection if nobody has, gives the client a moment to take
	// note, and frees it. It may take as long as the listener's Linger.
	Release()
}

// Waker is told what happens on a Pollable. Both methods are called from a
// goroutine that all connections share: they must not block. No lock is held,
// so they may call the connection.
type Waker interface {
	// Readable: TryReadPacket has something to say. The caller of Park is the
	// reader again, until the next Park. alone says that nothing else has
	// happened on any connection: to go on at once, as long as that takes some
	// ten microseconds and never waits, is then cheaper for everybody than to
	// wake another goroutine, and a processor with it.
	Readable(alone bool)
	// Writable: all that was taken is in the kernel.
	Writable()
}

// ProtocolError is what a client did wrong on the wire. Code is what op 6
// tells it, Kind a short constant name for the counter (bad_length,
// bad_header, too_large, bad_json, bad_utf8, mixed_forms …).
type ProtocolError struct {
	Code   protocol.CloseCode
	Kind   string
	Reason string
}

func (e *ProtocolError) Error() string { return fmt.Sprintf("%s: %s", e.Kind, e.Reason) }
