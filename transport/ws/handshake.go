package ws

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net/http"

	"imgo/transport"
	"imgo/transport/internal/socket"
)

// handshake is a connection before its upgrade.
type handshake struct {
	l        *Listener
	in       socket.Input
	messages *messages // of the connection
	write    func([]byte) error
	scanned  int // bytes of the request that were searched for its end
}

var errRefused = errors.New("the handshake was refused")

// upgrade answers the request. transport.ErrPart and transport.ErrIdle say that
// the request has not arrived yet. After any other error the client was refused,
// and told so if possible.
func (h *handshake) upgrade() error {
	cfg := h.l.acceptor.Config()
	head, err := h.requestHead()
	switch {
	case errors.Is(err, transport.ErrIdle) || errors.Is(err, transport.ErrPart):
		return err
	case err != nil && !errors.Is(err, errHeadTooLong) && !errors.Is(err, transport.ErrOverBudget):
		cfg.Refused(refusedHTTP)
		return err
	}
	r, accept, refused := h.l.answer(head, err)
	if refused == nil && h.in.SetRemote(h.l.clientAddress(r, h.in.Remote())) != nil { // it has counted the reason
		_ = h.write((&refusal{status: http.StatusServiceUnavailable, text: "too many connections"}).response())
		return errRefused
	}
	if refused != nil {
		cfg.Refused(refused.reason)
		cfg.Log.Debug().Str("why", refused.text).Stringer("remote", h.in.Remote()).Msg("connection refused")
		_ = h.write(refused.response())
		return errRefused
	}
	h.in.Discard(len(head))
	if err := h.write(switchingProtocols(accept)); err != nil {
		cfg.Refused(socket.RefusedSocket)
		return err
	}
	if h.l.keepHeader {
		h.messages.keep(h.in, r.Header)
	}
	h.in.Sign()
	return nil
}

var errHeadTooLong = errors.New("the request is too long")

// requestHead reads up to the empty line that ends a request's header, at most
// once. The bytes behind it stay in the connection's buffer.
func (h *handshake) requestHead() ([]byte, error) {
	for filled := false; ; filled = true {
		b := h.in.Buffered()
		if end := headEnd(b, h.scanned); end > 0 && end <= h.l.maxSize {
			return b[:end], nil
		}
		if len(b) >= h.l.maxSize {
			return nil, errHeadTooLong
		}
		h.scanned = len(b)
		if filled {
			return nil, transport.ErrPart
		}
		if err := h.in.Err(); err != nil {
			return nil, err
		}
		if err := h.in.Fill(h.l.maxSize); err != nil {
			return nil, err
		}
	}
}

// headEnd returns the length of the request head that b begins with, or 0 if its
// end is not there. As for net/http a line may end without a carriage return.
// The first scanned bytes are known to have no end.
func headEnd(b []byte, scanned int) int {
	for i := max(scanned-2, 0); ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		switch rest := b[i:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return i + 1
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return i + 2
		}
	}
}

// switchingProtocols is the answer to a request that is upgraded.
func switchingProtocols(accept acceptKey) []byte {
	const before = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	const after = "\r\n\r\n"
	b := make([]byte, 0, len(before)+len(accept)+len(after))
	return append(append(append(b, before...), accept[:]...), after...)
}

// acceptKey is a value of Sec-WebSocket-Accept, in base64.
type acceptKey [28]byte

// acceptOf answers a client's key (RFC 6455, 1.3).
func acceptOf(key string) (accept acceptKey) {
	b := append(make([]byte, 0, 64), key...)
	sum := sha1.Sum(append(b, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	base64.StdEncoding.Encode(accept[:], sum[:])
	return accept
}
