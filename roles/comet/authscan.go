package comet

import (
	"strconv"
	"unicode/utf8"
)

// authScan reads the auth bodies that clients really send: one flat object of
// known members, each once, without escapes and nulls. It is a twentieth of
// encoding/json's cost, which was a tenth of a connect's. What it does not
// understand, and every error, is left to encoding/json, so it must only never
// read anything otherwise; a fuzz test compares the two.
type authScan struct {
	b []byte
	i int
}

// read reads the whole body into a and the room of room_id into room; false:
// encoding/json is to do it, from the start.
func (s *authScan) read(a *authBody, room *string) bool {
	s.space()
	if !s.eat('{') {
		return false
	}
	s.space()
	if s.eat('}') {
		return s.end()
	}
	seen := 0
	for {
		key, ok := s.text()
		if !ok {
			return false
		}
		s.space()
		if !s.eat(':') {
			return false
		}
		s.space()
		member := s.member(a, room, key)
		if member == 0 || seen&member != 0 { // which of two counts is encoding/json's to say
			return false
		}
		seen |= member
		s.space()
		switch {
		case s.eat(','):
			s.space()
		case s.eat('}'):
			return s.end()
		default:
			return false
		}
	}
}

// member reads the value of a member; its result is a bit for each member, 0
// where it could not.
func (s *authScan) member(a *authBody, room *string, key []byte) int {
	switch string(key) {
	case "token":
		return s.name(&a.token, 1)
	case "device":
		return s.name(&a.device, 1<<1)
	case "key":
		return s.name(&a.key, 1<<2)
	case "platform":
		return s.name(&a.platform, 1<<3)
	case "room_id":
		return s.name(room, 1<<4)
	case "mid":
		a.hasMid = true
		if s.peek() == '"' {
			return s.name(&a.mid, 1<<5)
		}
		n, ok := s.integer(64)
		a.mid = strconv.FormatInt(n, 10)
		return when(ok, 1<<5)
	case "ack":
		switch {
		case s.word("true"):
			a.acks = true
		case !s.word("false"):
			return 0
		}
		return 1 << 6
	case "rooms":
		a.rooms = []string{}
		return when(s.list(func() bool {
			text, ok := s.text()
			a.rooms = append(a.rooms, string(text))
			return ok
		}), 1<<7)
	case "accepts":
		a.accepts = []int32{}
		return when(s.list(func() bool {
			n, ok := s.integer(32)
			a.accepts = append(a.accepts, int32(n))
			return ok
		}), 1<<8)
	}
	return 0
}

func when(ok bool, bit int) int {
	if ok {
		return bit
	}
	return 0
}

// name reads a string into dst.
func (s *authScan) name(dst *string, bit int) int {
	text, ok := s.text()
	*dst = string(text)
	return when(ok, bit)
}

// list reads an array, whose elements element reads.
func (s *authScan) list(element func() bool) bool {
	if !s.eat('[') {
		return false
	}
	s.space()
	if s.eat(']') {
		return true
	}
	for element() {
		s.space()
		if s.eat(']') {
			return true
		}
		if !s.eat(',') {
			return false
		}
		s.space()
	}
	return false
}

// text reads a string that is what it looks like.
func (s *authScan) text() ([]byte, bool) {
	if !s.eat('"') {
		return nil, false
	}
	start, ascii := s.i, true
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			text := s.b[start:s.i]
			s.i++
			return text, ascii || utf8.Valid(text)
		case c < ' ' || c == '\\':
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false
}

// integer reads a number that is an integer of so many bits, in its shortest
// form.
func (s *authScan) integer(bits int) (int64, bool) {
	start := s.i
	s.eat('-')
	first := s.peek()
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.i++
	}
	digits := s.b[start:s.i]
	if first == '0' && len(digits) > 1 { // -0 and 00 included
		return 0, false
	}
	switch s.peek() {
	case ',', ']', '}', ' ', '\t', '\n', '\r':
	default:
		return 0, false
	}
	n, err := strconv.ParseInt(string(digits), 10, bits)
	return n, err == nil
}

func (s *authScan) end() bool {
	s.space()
	return s.i == len(s.b)
}

func (s *authScan) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek is the next byte; 0, which is in no JSON, at the end.
func (s *authScan) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *authScan) eat(c byte) bool {
	if s.peek() != c || s.i == len(s.b) {
		return false
	}
	s.i++
	return true
}

func (s *authScan) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}
