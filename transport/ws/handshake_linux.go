package ws

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"imgo/transport"
	"imgo/transport/internal/socket"
)

// run chooses how connections are run.
func (l *Listener) run(ctx context.Context, handle func(transport.Conn)) error {
	if l.acceptor.Polls() {
		return l.runPolled(ctx, handle)
	}
	return l.runHTTP(ctx, handle)
}

// refusal is why a request is no opening handshake.
type refusal struct {
	reason string // for Config.Refused
	status int
	text   string
	header string // more lines
}

// upgrade does the opening handshake; transport.ErrIdle: the request has not
// arrived yet. After any other error the client was refused, and told so where
// that can be.
func (c *polled) upgrade() error {
	cfg := c.l.acceptor.Config()
	head, err := c.requestHead()
	var no *refusal
	switch {
	case errors.Is(err, errHeaderTooLong):
		no = &refusal{refusedHTTP, http.StatusRequestHeaderFieldsTooLarge, "the request is too long", ""}
	case errors.Is(err, transport.ErrIdle):
		return err
	case err != nil:
		cfg.Refused(refusedHTTP)
		return err
	}
	var accept acceptKey
	if no == nil {
		accept, no = c.l.shakeHands(head)
	}
	if no != nil {
		cfg.Refused(no.reason)
		cfg.Log.Debug().Str("why", no.text).Stringer("remote", c.Remote()).Msg("connection refused")
		_, _, _ = c.TryWriteOne(no.response())
		return errRefused
	}
	c.Take(len(head))
	if _, _, err := c.TryWriteOne(switching(accept)); err != nil {
		cfg.Refused(socket.RefusedSocket)
		return err
	}
	c.Sign()
	return nil
}

var errRefused = errors.New("the handshake was refused")

// switching is the answer to a request that is not refused.
func switching(accept acceptKey) []byte {
	const before = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	const after = "\r\n\r\n"
	b := make([]byte, 0, len(before)+len(accept)+len(after))
	return append(append(append(b, before...), accept[:]...), after...)
}

var errHeaderTooLong = errors.New("the request is too long")

// requestHead reads up to the empty line that ends a request's header; what
// follows stays.
func (c *polled) requestHead() ([]byte, error) {
	for {
		b := c.Buffered()
		if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 && i < maxHeader {
			return b[:i+4], nil
		}
		if len(b) >= maxHeader {
			return nil, errHeaderTooLong
		}
		if err := c.Fill(maxHeader); err != nil {
			return nil, err
		}
	}
}

// shakeHands judges a request: accept is what the answer is to say.
func (l *Listener) shakeHands(head []byte) (accept acceptKey, no *refusal) {
	if accept, ok := l.plainRequest(head); ok {
		return accept, nil
	}
	return l.anyRequest(head)
}

// anyRequest is shakeHands of whatever a client may send.
func (l *Listener) anyRequest(head []byte) (accept acceptKey, no *refusal) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil || r.Host == "" && r.ProtoAtLeast(1, 1) {
		return accept, &refusal{refusedHTTP, http.StatusBadRequest, "this is no HTTP request", ""}
	}
	switch {
	case r.URL.Path != l.path:
		return accept, &refusal{refusedPath, http.StatusNotFound, "WebSocket is at " + l.path, ""}
	case r.Method != http.MethodGet:
		return accept, &refusal{refusedMethod, http.StatusMethodNotAllowed, "WebSocket starts with GET", "Allow: GET\r\n"}
	}
	if err := l.origins.check(r.Header.Get("Origin")); err != nil {
		return accept, &refusal{refusedOrigin, http.StatusForbidden, err.Error(), ""}
	}
	keys := r.Header.Values("Sec-WebSocket-Key")
	switch {
	case !r.ProtoAtLeast(1, 1) || !names(r.Header, "Connection", "upgrade") || !names(r.Header, "Upgrade", "websocket"):
		return accept, &refusal{refusedUpgrade, http.StatusUpgradeRequired, "here is nothing but WebSocket", "Upgrade: websocket\r\n"}
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return accept, &refusal{refusedUpgrade, http.StatusBadRequest, "WebSocket is spoken in version 13", "Sec-WebSocket-Version: 13\r\n"}
	case len(keys) != 1:
		return accept, &refusal{refusedUpgrade, http.StatusBadRequest, "a handshake has one Sec-WebSocket-Key", ""}
	}
	key := strings.TrimSpace(keys[0])
	if b, err := base64.StdEncoding.DecodeString(key); err != nil || len(b) != 16 {
		return accept, &refusal{refusedUpgrade, http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64", ""}
	}
	return answerKey([]byte(key)), nil
}

// names says whether a header that is a list has token, in any case.
func names(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// response is the answer to a request that is refused: the last.
func (no *refusal) response() []byte {
	connection := "close"
	if no.status == http.StatusUpgradeRequired {
		connection = "Upgrade, close"
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n%sConnection: %s\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n%s\n",
		no.status, http.StatusText(no.status), no.header, connection, len(no.text)+1, no.text)
}
