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

// The reasons that ListenConfig.Refused is called with, beside those of package
// socket.
const (
	refusedOrigin  = "origin"
	refusedPath    = "path"
	refusedMethod  = "method"
	refusedUpgrade = "upgrade" // no WebSocket handshake, or a broken one
	refusedHTTP    = "http"    // no HTTP request in time, or none at all
	refusedBudget  = "budget"  // ListenConfig.Unauthenticated
)

// The headers of a handshake, as net/http writes them.
const (
	headerKey     = "Sec-Websocket-Key"
	headerVersion = "Sec-Websocket-Version"
)

// refusal is the answer to a request that is not upgraded.
type refusal struct {
	reason string // for ListenConfig.Refused
	status int
	text   string
	header [2]string // a further header: its name, or "", and its value
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
	bad := func(status int, text string) (*http.Request, *refusal) {
		return nil, &refusal{reason: refusedHTTP, status: status, text: text}
	}
	switch {
	case err == nil:
	case socket.IsProxyHeader(head):
		return bad(http.StatusBadRequest, "a proxy sends the PROXY protocol, and comet.ws_proxy_protocol does not expect it from there")
	case strings.Contains(err.Error(), "unsupported transfer encoding"):
		return bad(http.StatusNotImplemented, "the server does not support this Transfer-Encoding")
	default:
		return bad(http.StatusBadRequest, "this is no valid HTTP/1.1 request")
	}
	host, hasHost := r.Host, true
	if r.Host == "" || r.URL.Host != "" { // ReadRequest does not tell what the header was
		host, hasHost = hostHeader(head)
	}
	expect := r.Header.Get("Expect")
	switch {
	case !hasHost && r.ProtoAtLeast(1, 1) && r.Method != http.MethodConnect:
		return bad(http.StatusBadRequest, "the request has no Host header")
	case r.ProtoMajor != 1:
		return bad(http.StatusHTTPVersionNotSupported, "the server supports HTTP/1.1 only")
	case !httpguts.ValidHostHeader(host):
		return bad(http.StatusBadRequest, "the Host header is not valid")
	case spacedName(r.Header):
		return bad(http.StatusBadRequest, "the name of a header has a space")
	case expect != "" && !hasToken(r.Header, "Expect", "100-continue"):
		return bad(http.StatusExpectationFailed, "the server supports no Expect header but 100-continue")
	}
	return r, nil
}

// spacedName reports whether the name of a header has a space. ReadRequest lets such a
// name pass, and nothing else that the server of net/http refuses in a header.
func spacedName(h http.Header) bool {
	for name := range h {
		if strings.Contains(name, " ") {
			return true
		}
	}
	return false
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

// checkRequest judges a request, whichever way it was read. It returns the value
// of the answer's Sec-WebSocket-Accept, or the refusal.
func (l *Listener) checkRequest(r *http.Request) (acceptKey, *refusal) {
	var none acceptKey
	switch {
	case r.URL.Path != l.path:
		return none, &refusal{reason: refusedPath, status: http.StatusNotFound, text: "WebSocket is at " + l.path}
	case r.Method != http.MethodGet:
		return none, &refusal{
			reason: refusedMethod, status: http.StatusMethodNotAllowed,
			text: "WebSocket starts with GET", header: [2]string{"Allow", http.MethodGet},
		}
	}
	if err := l.checkOrigin(r); err != nil {
		return none, &refusal{reason: refusedOrigin, status: http.StatusForbidden, text: err.Error()}
	}
	keys := r.Header[headerKey]
	switch {
	case !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		return none, &refusal{
			reason: refusedUpgrade, status: http.StatusUpgradeRequired,
			text: "this address serves WebSocket only", header: [2]string{"Upgrade", "websocket"},
		}
	case r.Header.Get(headerVersion) != "13":
		return none, &refusal{
			reason: refusedUpgrade, status: http.StatusBadRequest,
			text: "WebSocket version 13 is required", header: [2]string{"Sec-WebSocket-Version", "13"},
		}
	case len(keys) != 1 || strings.TrimSpace(keys[0]) == "":
		return none, &refusal{reason: refusedUpgrade, status: http.StatusBadRequest, text: "a handshake has one Sec-WebSocket-Key"}
	}
	// RFC 6455 wants 16 bytes in base64. The ancestors took any key, and some of their
	// clients send another one. HTTP/1.0 is taken for their sake, too.
	return acceptOf(strings.TrimSpace(keys[0])), nil
}

// hasToken reports whether a header that is a list has token, in any case.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}
