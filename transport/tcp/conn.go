package tcp

import (
	"io"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// readStep reads the next packet, or returns what came instead of it; see
// transport.Conn. Packets follow one another without any framing.
func readStep(in socket.Input) (transport.Packet, error) {
	if err := in.Err(); err != nil {
		return transport.Packet{}, err
	}
	p, need, err := decode(in)
	if need == 0 {
		return p, err
	}
	if err := in.Fill(need); err != nil {
		if err == io.EOF && len(in.Buffered()) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return transport.Packet{}, err
	}
	if p, need, err = decode(in); need > 0 {
		err = transport.ErrPart
	}
	return p, err
}

// decode takes the packet that is buffered. If it is incomplete, need is how many
// bytes it has, as far as that is known.
func decode(in socket.Input) (p transport.Packet, need int, err error) {
	b := in.Buffered()
	p, rest, err := transport.DecodePacket(b, in.MaxBody())
	switch {
	case err == nil:
		in.Sign()
		if p.Body != nil {
			p.Body = append([]byte(nil), p.Body...) // the buffer is used again
		}
		in.Discard(len(b) - len(rest))
		return p, 0, nil
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		if socket.IsProxyHeader(b) {
			err = errProxyHeader
		}
		return p, 0, err
	case len(b) < protocol.HeaderV1:
		return p, protocol.HeaderV1, nil
	}
	h, _ := transport.ParseHeader(b, in.MaxBody()) // DecodePacket found it valid
	return p, h.HeaderLen + h.BodyLen, nil
}

// errProxyHeader is not the client's mistake, so the client is told to come back.
var errProxyHeader = &transport.ProtocolError{
	Code: protocol.CloseOverload, Kind: "proxy_header",
	Reason: "a proxy sends the PROXY protocol, and comet.tcp_proxy_protocol does not expect it from there",
}

// conn is a transport.Conn over one socket that has a goroutine.
type conn struct{ *socket.Socket }

var _ transport.Conn = (*conn)(nil)

func (c *conn) ReadStep() (transport.Packet, error) { return readStep(c.Socket) }

func (c *conn) Write(deadline time.Time, frames ...[]byte) error {
	return c.Send(deadline, frames, nil)
}

func (c *conn) Text() bool               { return false }
func (c *conn) Traits() transport.Traits { return transport.Traits{Scheme: Scheme, Stream: true} }

// Close does not send code and reason: the caller writes op 6 before, which has
// them.
func (c *conn) Close(protocol.CloseCode, string) error {
	c.CloseWith(nil)
	return nil
}
