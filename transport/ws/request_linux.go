package ws

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
)

// acceptKey is what the answer to an opening handshake says, in base64.
type acceptKey [28]byte

// answerKey makes the answer to a client's key (RFC 6455, 1.3).
func answerKey(key []byte) (accept acceptKey) {
	b := append(make([]byte, 0, 64), key...)
	sum := sha1.Sum(append(b, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	base64.StdEncoding.Encode(accept[:], sum[:])
	return accept
}

// What a request has to say, once each where more would be a question.
const (
	saysHost = 1 << iota
	saysConnection
	saysUpgrade
	saysVersion
	saysKey
	saysAll = 1<<iota - 1
)

// plainRequest answers an opening handshake as clients really send it, without
// what net/http makes of a request. head is the request with the empty line at
// its end. false: net/http is to read it, which refuses what is to be refused;
// so this must only never take what net/http would not, and a fuzz test
// compares the two.
func (l *Listener) plainRequest(head []byte) (accept acceptKey, ok bool) {
	line, rest, _ := bytes.Cut(head, crlf)
	line, isGet := bytes.CutPrefix(line, []byte("GET "))
	path, isHTTP := bytes.CutSuffix(line, []byte(" HTTP/1.1"))
	if !isGet || !isHTTP || string(path) != l.path || !plainPath(path) {
		return accept, false
	}
	said, origin := 0, false
	for {
		line, rest, ok = bytes.Cut(rest, crlf)
		if !ok {
			return accept, false
		}
		if len(line) == 0 {
			return accept, said == saysAll && len(rest) == 0
		}
		name, value, ok := header(line)
		if !ok {
			return accept, false
		}
		says, once := 0, true
		switch {
		case is(name, "host"):
			says = saysHost
			ok = len(value) > 0
		case is(name, "connection"):
			says, once = saysConnection, false
			ok = has(value, "upgrade")
		case is(name, "upgrade"):
			says, once = saysUpgrade, false
			ok = has(value, "websocket")
		case is(name, "sec-websocket-version"):
			says = saysVersion
			ok = string(value) == "13"
		case is(name, "sec-websocket-key"):
			says = saysKey
			var key [18]byte
			n, err := 0, error(nil)
			if ok = len(value) == 24; ok {
				n, err = base64.StdEncoding.Decode(key[:], value)
			}
			ok = ok && err == nil && n == 16
			accept = answerKey(value)
		case is(name, "origin"):
			ok = !origin && l.origins.check(string(value)) == nil
			origin = true
		case is(name, "content-length"), is(name, "transfer-encoding"), is(name, "trailer"):
			return accept, false // a handshake has no body
		}
		if !ok || once && said&says != 0 {
			return accept, false
		}
		said |= says
	}
}

var crlf = []byte("\r\n")

// plainPath says whether a path means itself.
func plainPath(path []byte) bool {
	for _, c := range path {
		if !token(c) && c != '/' {
			return false
		}
	}
	return len(path) > 0 && path[0] == '/' && !bytes.HasPrefix(path, []byte("//"))
}

// token says whether a byte is a letter, a digit or a dash.
func token(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-'
}

// header takes a line of a header apart; false: it is none that is plain.
func header(line []byte) (name, value []byte, ok bool) {
	name, value, ok = bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 {
		return nil, nil, false
	}
	for _, c := range name {
		if !token(c) {
			return nil, nil, false
		}
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c > '~' {
			return nil, nil, false
		}
	}
	return name, bytes.Trim(value, " \t"), true
}

// is compares a header's name, in any case, with one in lower case.
func is(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// has says whether a value that is a list has an item, which is in lower case.
func has(value []byte, item string) bool {
	for more := true; more; {
		var one []byte
		one, value, more = bytes.Cut(value, []byte(","))
		if is(bytes.Trim(one, " \t"), item) {
			return true
		}
	}
	return false
}
