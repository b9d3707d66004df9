package ws

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// The sizes of the library's buffers for each connection, in bytes. Longer reads
// bypass the buffer, and shim discards what the library writes.
const (
	readBuffer  = 256
	writeBuffer = 16
)

// upgrader is the HTTP handler of a Listener. It turns a request into a connection.
type upgrader struct {
	*Listener
	handle func(transport.Conn)
}

func (u *upgrader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cfg := u.acceptor.Config()
	pending := r.Context().Value(pendingKey{}).(*pendingConn)
	pending.asked.Store(true)
	if _, no := u.checkRequest(r); no != nil {
		cfg.Refused(no.reason)
		cfg.Log.Debug().Str("why", no.text).Str("remote", r.RemoteAddr).Msg("connection refused")
		if no.header[0] != "" {
			w.Header().Set(no.header[0], no.header[1])
		}
		http.Error(w, no.text, no.status)
		return
	}

	s := pending.Socket
	c := newConn(s, u.maxBody)
	h := &hijacker{ResponseWriter: w, shim: &c.shim}
	lib, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // checkRequest is stricter: the library lets in the request's own host
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     c.onPing,
		OnPongReceived:     c.onPong,
	})
	if err != nil {
		cfg.Refused(refusedUpgrade)
		cfg.Log.Debug().Err(err).Str("remote", r.RemoteAddr).Msg("connection refused")
		if h.hijacked { // net/http does not close it any more
			s.Abort()
			u.acceptor.Done(s)
		}
		return
	}
	// The kind of the messages is not known yet. ReadPacket enforces the lower
	// limit of binary messages.
	lib.SetReadLimit(int64(transport.JSONLimit(u.maxBody)))
	c.lib = lib
	// After the handler has returned, net/http frees all its memory of the request.
	go func() {
		defer u.acceptor.Done(s)
		defer c.release()
		u.handle(c)
	}()
}

// hijacker gives the library a shim with small buffers in place of net/http's
// connection.
type hijacker struct {
	http.ResponseWriter
	shim     *shim
	hijacked bool
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.hijacked = true
	if p, ok := nc.(*pendingConn); !ok || p.Socket != h.shim.Socket {
		return nil, nil, errors.New("net/http hands out another connection than it was given")
	}
	if n := brw.Reader.Buffered(); n > 0 { // the client did not wait for the answer
		b, _ := brw.Reader.Peek(n)
		h.shim.early = append([]byte(nil), b...)
	}
	return h.shim, bufio.NewReadWriter(bufio.NewReaderSize(h.shim, readBuffer), bufio.NewWriterSize(h.shim, writeBuffer)), nil
}

// shim is the connection as the library sees it. Reads pass through. Writes are
// discarded, because the library would send its own close frames and pongs
// between our frames; conn sends these itself. Close does not end the
// connection either: conn can still tell the client the reason with op 6.
type shim struct {
	*socket.Socket
	early []byte // read by net/http after the request
	err   error  // the error that ended reading; the reader's
}

func (s *shim) Read(b []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(b, s.early)
		if s.early = s.early[n:]; len(s.early) == 0 {
			s.early = nil
		}
		return n, nil
	}
	n, err := s.Socket.Read(b)
	if err != nil {
		s.err = err
	}
	return n, err
}

func (s *shim) Write(b []byte) (int, error) { return len(b), nil }

// Close is called when the library gives up, for example because a control frame
// arrived too slowly. It makes the reader return.
func (s *shim) Close() error {
	_ = s.SetReadDeadline(time.Unix(1, 0))
	return nil
}

// protocolError returns a client's mistake in WebSocket framing or in packets.
func protocolError(kind, reason string) *transport.ProtocolError {
	return &transport.ProtocolError{Code: protocol.CloseBadPacket, Kind: kind, Reason: reason}
}
