package ws

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"strings"
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

// refusal is the answer to a request that is not upgraded.
type refusal struct {
	reason string // for ListenConfig.Refused
	status int
	text   string
	header [2]string // a further header: its name, or "", and its value
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
	broken := refusal{reason: refusedUpgrade, status: http.StatusBadRequest}
	keys := r.Header.Values("Sec-WebSocket-Key")
	switch {
	case !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		broken.status, broken.text = http.StatusUpgradeRequired, "this address serves WebSocket only"
		broken.header = [2]string{"Upgrade", "websocket"}
		return none, &broken
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		broken.text, broken.header = "WebSocket version 13 is required", [2]string{"Sec-WebSocket-Version", "13"}
		return none, &broken
	case len(keys) != 1 || strings.TrimSpace(keys[0]) == "":
		broken.text = "a handshake has one Sec-WebSocket-Key"
		return none, &broken
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

// acceptKey is a value of Sec-WebSocket-Accept, in base64.
type acceptKey [28]byte

// acceptOf answers a client's key (RFC 6455, 1.3).
func acceptOf(key string) (accept acceptKey) {
	b := append(make([]byte, 0, 64), key...)
	sum := sha1.Sum(append(b, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	base64.StdEncoding.Encode(accept[:], sum[:])
	return accept
}
