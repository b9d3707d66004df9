package ws

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

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
// once. What follows stays in the connection's buffer.
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

// answer judges a request head. headErr says why there is none: errHeadTooLong or
// transport.ErrOverBudget.
func (l *Listener) answer(head []byte, headErr error) (*http.Request, acceptKey, *refusal) {
	var none acceptKey
	if errors.Is(headErr, transport.ErrOverBudget) {
		return nil, none, &refusal{reason: refusedBudget, status: http.StatusServiceUnavailable, text: headErr.Error()}
	}
	if headErr != nil {
		return nil, none, &refusal{reason: refusedHTTP, status: http.StatusRequestHeaderFieldsTooLarge, text: headErr.Error()}
	}
	r, refused := l.parse(head)
	if refused != nil {
		return nil, none, refused
	}
	accept, refused := l.checkRequest(r)
	return r, accept, refused
}

// headReader reads a request head for net/http. Its buffers are used again.
type headReader struct {
	bytes bytes.Reader
	buf   *bufio.Reader
}

// headReaders is a pool of headReaders.
type headReaders struct{ pool sync.Pool }

func (p *headReaders) get(head []byte) *headReader {
	r, ok := p.pool.Get().(*headReader)
	if !ok {
		r = &headReader{buf: bufio.NewReaderSize(nil, 1<<10)}
	}
	r.bytes.Reset(head)
	r.buf.Reset(&r.bytes)
	return r
}

func (p *headReaders) put(r *headReader) {
	r.bytes.Reset(nil)
	p.pool.Put(r)
}

// parse has net/http parse a request head, and refuses what the server of
// net/http refuses before it calls its handler.
func (l *Listener) parse(head []byte) (*http.Request, *refusal) {
	reader := l.heads.get(head)
	defer l.heads.put(reader)
	r, err := http.ReadRequest(reader.buf)
	bad := &refusal{reason: refusedHTTP, status: http.StatusBadRequest, text: "this is no valid HTTP/1.1 request"}
	if err != nil {
		switch {
		case socket.IsProxyHeader(head):
			bad.text = "a proxy sends the PROXY protocol, and comet.ws_proxy_protocol does not expect it from there"
		case strings.Contains(err.Error(), "unsupported transfer encoding"):
			bad.status, bad.text = http.StatusNotImplemented, "the server does not support this Transfer-Encoding"
		}
		return nil, bad
	}
	host, hasHost := r.Host, true
	if r.Host == "" || r.URL.Host != "" { // ReadRequest does not tell what the header was
		host, hasHost = hostHeader(head)
	}
	expect := r.Header.Get("Expect")
	switch {
	case !hasHost && r.ProtoAtLeast(1, 1) && r.Method != http.MethodConnect:
		bad.text = "the request has no Host header"
	case r.ProtoMajor != 1:
		bad.status, bad.text = http.StatusHTTPVersionNotSupported, "the server supports HTTP/1.1 only"
	case !httpguts.ValidHostHeader(host):
		bad.text = "the Host header is not valid"
	case !validHeader(r.Header):
		bad.text = "the request has a header that is not valid"
	case expect != "" && !hasToken(r.Header, "Expect", "100-continue"):
		bad.status, bad.text = http.StatusExpectationFailed, "the server supports no Expect header but 100-continue"
	default:
		return r, nil
	}
	return nil, bad
}

func validHeader(h http.Header) bool {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return false
			}
		}
	}
	return true
}

// hostHeader returns the value of a valid request's Host header.
func hostHeader(head []byte) (value string, ok bool) {
	for line := range bytes.Lines(head) {
		name, value, found := bytes.Cut(line, []byte(":"))
		if found && strings.EqualFold(string(name), "host") {
			return string(bytes.TrimSpace(value)), true
		}
	}
	return "", false
}

// switchingProtocols is the answer to a request that is upgraded.
func switchingProtocols(accept acceptKey) []byte {
	const before = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	const after = "\r\n\r\n"
	b := make([]byte, 0, len(before)+len(accept)+len(after))
	return append(append(append(b, before...), accept[:]...), after...)
}

// response is the answer to a request that is refused, and the last one.
func (no *refusal) response() []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", no.status, http.StatusText(no.status))
	connection := "close"
	if no.header[0] != "" {
		b = fmt.Appendf(b, "%s: %s\r\n", no.header[0], no.header[1])
		if no.status == http.StatusUpgradeRequired {
			connection = "Upgrade, close"
		}
	}
	return fmt.Appendf(b, "Connection: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"X-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n%s\n", connection, len(no.text)+1, no.text)
}
