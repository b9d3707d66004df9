// Package transport faces clients: the packet and JSON codecs of
// docs/protocol.md, the Conn that comet holds whatever a client speaks, and
// the encode-once Message that every connection shares. Its subfolders bring
// connections: tcp, ws (WebSocket) and pipe (in memory, for tests); one
// conformance suite (transporttest) holds all of them to Conn's contract.
//
// It knows nothing of users, sessions or delivery.
package transport

import (
	"fmt"
	"net/netip"
	"time"

	"imgo/envelope"
)

// Operations of the client protocol (docs/protocol.md).
const (
	OpHeartbeat        int32 = 2
	OpHeartbeatReply   int32 = 3
	OpSend             int32 = 4
	OpMessage          int32 = 5
	OpDisconnect       int32 = 6
	OpAuth             int32 = 7
	OpAuthReply        int32 = 8
	OpRaw              int32 = 9
	OpChangeRoom       int32 = 12
	OpChangeRoomReply  int32 = 13
	OpSubscribe        int32 = 14
	OpSubscribeReply   int32 = 15
	OpUnsubscribe      int32 = 16
	OpUnsubscribeReply int32 = 17
	OpAck              int32 = 18
	OpAckReply         int32 = 19
	OpJoinRoom         int32 = 20
	OpJoinRoomReply    int32 = 21
	OpLeaveRoom        int32 = 22
	OpLeaveRoomReply   int32 = 23
	OpTest             int32 = 254
	OpTestReply        int32 = 255
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
	NumForms
)

// JSON says whether the form is a text form.
func (f Form) JSON() bool { return f >= FormImgoJSON }

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
	// Network is "tcp", "ws" or "pipe".
	Network() string
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
	Close(code envelope.CloseCode, reason string) error
}

// ProtocolError is what a client did wrong on the wire. Code is what op 6
// tells it, Kind a short constant name for the counter (bad_length,
// bad_header, too_large, bad_json, bad_utf8, mixed_forms …).
type ProtocolError struct {
	Code   envelope.CloseCode
	Kind   string
	Reason string
}

func (e *ProtocolError) Error() string { return fmt.Sprintf("%s: %s", e.Kind, e.Reason) }
