// Package transport owns the connections of clients. It has the packet and JSON codecs of
// docs/reference/protocol.md, and the interfaces Listener, Conn and Pollable that comet
// uses. A Message is encoded once for many connections.
//
// Its subfolders implement the interfaces: tcp, ws (WebSocket) and pipe (in
// memory, for tests). One conformance suite, transporttest, holds all of them to
// the contract of Conn. A further transport is one more package of this kind.
//
// It does not know users, sessions or delivery.
package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"imgo/protocol"
)

// Packet is one packet from or to a client.
type Packet struct {
	Version int16
	Op      int32
	Seq     int32
	// ID is the id of a kept message. Only version 2 carries it.
	ID uint64
	// Long says that the header had protocol.HeaderV2 bytes.
	Long bool
	// Body belongs to the packet: no other code reads or writes its bytes. From
	// a JSON frame it is the raw JSON of "body", or nil if there is none.
	Body []byte
}

// Form is a wire form: the encoding of frames on a connection.
type Form uint8

// The wire forms. A frame of a binary form is one packet. A frame of a JSON form
// is an array of one object, the payload of one text message.
const (
	FormImgo     Form = iota // binary v1 header, pushes carry version 0 (imgo 2016)
	FormGoim                 // binary v1 header, pushes carry version 1 (goim v2 on TCP)
	FormGoimWS               // FormGoim with each push in the body of a packet with OpRaw (goim v2 on WebSocket)
	FormV2                   // binary v2 header with the message id
	FormImgoJSON             // JSON, pushes carry "ver":0, a line feed at the end (imgo 2016)
	FormV2JSON               // JSON, "ver":2 with "id"
	plainForms

	// NumForms counts the forms, framed ones included.
	NumForms = 2 * plainForms
)

// JSON reports whether the form is a text form.
func (f Form) JSON() bool { return f.plain() >= FormImgoJSON }

// Framed returns the form that has the header of a WebSocket frame before each
// frame of f. A server's frames are not masked, so framed frames are the same
// for every client, too, and are encoded once.
func (f Form) Framed() Form { return f.plain() + plainForms }

func (f Form) framed() bool { return f >= plainForms }
func (f Form) plain() Form  { return f % plainForms }

// Errors of ReadStep and TryReadPacket that say what came in place of a packet.
// The connection is as good as before.
var (
	// ErrFrame is a control frame of WebSocket, or a fragment of a message.
	ErrFrame = errors.New("a frame that ends no packet")
	// ErrPart is a read that brought a part of a packet or frame.
	ErrPart = errors.New("a part of a packet")
)

// Conn is one client connection. ReadStep is for one goroutine at a time, and so
// is Write. Both may run at the same time, and all other methods may be
// called by any goroutine at any time.
type Conn interface {
	// ReadStep blocks until the client's next packet has arrived, or something else:
	// the error is ErrFrame or ErrPart then. The caller counts that against what the
	// client may send, and calls again. The error is a *ProtocolError if the client
	// broke the protocol, io.EOF or io.ErrUnexpectedEOF at the end of the stream, and
	// os.ErrDeadlineExceeded after the read deadline. After one of these only Write and
	// Close are of use.
	ReadStep() (Packet, error)
	// Authenticated says that the client has authenticated. Its input from now
	// on does not count against ListenConfig.Unauthenticated. It is for the reader.
	Authenticated()
	// SetReadDeadline bounds the ReadStep under way and the following ones. Under TLS
	// a deadline that is yet to come also bounds Write, because TLS may have to write
	// before it can read.
	SetReadDeadline(t time.Time) error
	// Write sends whole frames in the connection's form, in as few system calls
	// as possible. It blocks until the kernel has taken all of them or the
	// deadline has passed (os.ErrDeadlineExceeded). Frames are neither changed
	// nor kept. After an error the stream may end within a frame, so only Close
	// is of use.
	Write(deadline time.Time, frames ...[]byte) error
	// Text reports whether the client speaks JSON frames. It is false until the
	// first packet has been read.
	Text() bool
	// Traits are the properties of the connection's transport.
	Traits() Traits
	// Remote is the client's address.
	Remote() netip.AddrPort
	// Unacked counts the bytes that were written and that the peer's TCP has not
	// acknowledged (SIOCOUTQ on Linux). After the end of the connection it is the
	// count at the end. ok is false if the system does not tell. A caller that
	// reads Written first and Unacked second knows that at least Written -
	// Unacked bytes have arrived.
	Unacked() (n int64, ok bool)
	// Written counts the bytes handed to the kernel so far, framing included.
	Written() int64
	// LastSign is the time of the client's last sign of life: a packet, or a
	// WebSocket ping or pong. It has a reading of the monotonic clock, so no step of
	// the wall clock changes how long ago it was.
	LastSign() time.Time
	// Close ends the connection, and a ReadStep or Write under way returns. On
	// WebSocket a close frame tells the code and the reason, if there is room for it
	// within a moment; code 0 is a plain end (1000). Close never waits for the peer. A
	// second call does nothing.
	Close(code protocol.CloseCode, reason string) error
}

// Headed is a Conn that began with an HTTP request. RemoveHeader returns the
// request's header, once, if the listener keeps it. It is for the reader.
type Headed interface{ RemoveHeader() map[string][]string }

// Traits are the properties of a transport that the users of its connections
// have to know. They are the same for all connections of a Listener.
type Traits struct {
	// Scheme names the transport: "tcp", "ws" or "pipe".
	Scheme string
	// ClientPicksForm says that the first packet shows whether the client speaks
	// JSON frames. No frame may be written before that packet.
	ClientPicksForm bool
	// Stream says that packets follow one another as bytes, so that a client must
	// find their ends by itself.
	Stream bool
	// Framed says that TryWrite wants frames in Form.Framed, which have the
	// transport's own frame header before each frame.
	Framed bool
}

// ProtocolError is a client's mistake on the wire. Code is what op 6 tells the
// client. Kind is a short constant name for a counter: bad_length, bad_header,
// too_large, bad_json, bad_utf8, mixed_forms and so on.
type ProtocolError struct {
	Code   protocol.CloseCode
	Kind   string
	Reason string
}

func (e *ProtocolError) Error() string { return fmt.Sprintf("%s: %s", e.Kind, e.Reason) }
