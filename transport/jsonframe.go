package transport

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// Depth limits of JSON, in levels of nesting. What a client sends needs few.
// What is pushed may be as deep as encoding/json still reads (10,000) together
// with the array and the object around it; a deeper body goes as a string.
const (
	maxFrameDepth = 512
	maxBodyDepth  = 9998
)

// jsonOverhead is about what a server frame has beside its body, in bytes.
const jsonOverhead = 96

// JSONLimit is the largest text message, in bytes, for a body limit: escapes
// and base64 make a body longer, and the other members need room.
func JSONLimit(maxBody int) int { return 2*maxBody + 1024 }

// ParseJSON parses a client's text message: one object with the members ver,
// op, seq and body. op is required; ver and seq must fit int16 and int32 and
// are 0 where absent. The last of duplicate members counts and unknown members
// are skipped, as encoding/json did for the clients of 2016. The body is not
// decoded: Packet.Body is its raw JSON, a part of b, nil where absent.
// Everything else is a *ProtocolError. It uses no stack and no memory in
// proportion to b's nesting.
func ParseJSON(b []byte) (Packet, error) {
	if !utf8.Valid(b) {
		return Packet{}, badPacket("bad_utf8", "text message is not valid UTF-8")
	}
	s := scanner{b: b}
	p, why := s.frame()
	if why != "" {
		return Packet{}, badPacket("bad_json", "text message: %s at byte %d", why, s.i)
	}
	return p, nil
}

// frame parses the one object of a text message; why is empty when it is good.
func (s *scanner) frame() (p Packet, why string) {
	s.space()
	if s.peek() == '[' {
		return p, "an array where one object is expected"
	}
	if !s.eat('{') {
		return p, "no object"
	}
	s.space()
	hasOp := false
	for first := true; !s.eat('}'); first = false {
		if !first {
			if !s.eat(',') {
				return p, "no comma or end of object"
			}
			s.space()
		}
		key, ok := s.key()
		if !ok {
			return p, "no member name"
		}
		if why := s.member(&p, key, &hasOp); why != "" {
			return p, why
		}
		s.space()
	}
	s.space()
	switch {
	case s.i != len(s.b):
		return p, "something after the object"
	case !hasOp:
		return p, "no op"
	}
	return p, ""
}

// member parses the value of member key into p.
func (s *scanner) member(p *Packet, key []byte, hasOp *bool) (why string) {
	var n int64
	var ok bool
	switch string(key) {
	case "ver":
		n, ok = s.int(16)
		p.Version = int16(n)
	case "op":
		n, ok = s.int(32)
		p.Op, *hasOp = int32(n), true
	case "seq":
		n, ok = s.int(32)
		p.Seq = int32(n)
	default:
		start := s.i
		if !s.value(maxFrameDepth) {
			return "a malformed or too deeply nested value"
		}
		if string(key) == "body" {
			p.Body = s.b[start:s.i:s.i]
		}
		return ""
	}
	if !ok {
		return string(key) + " is not an integer in range"
	}
	return ""
}

// AppendJSONObject appends one object of a server frame, its members in the
// order ver, op, seq, id (where withID), body. The body goes in as JSON as it
// is when it is that, as a string when it is other UTF-8, as {"base64":"…"}
// otherwise, and as {} when it is empty: whatever was pushed, the frame is
// valid JSON and valid UTF-8.
func AppendJSONObject(dst []byte, withID bool, version int16, op, seq int32, id uint64, body []byte) []byte {
	dst = append(dst, `{"ver":`...)
	dst = strconv.AppendInt(dst, int64(version), 10)
	dst = append(dst, `,"op":`...)
	dst = strconv.AppendInt(dst, int64(op), 10)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendInt(dst, int64(seq), 10)
	if withID {
		dst = append(dst, `,"id":"`...)
		dst = strconv.AppendUint(dst, id, 10)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"body":`...)
	switch {
	case len(body) == 0:
		dst = append(dst, `{}`...)
	case !utf8.Valid(body):
		dst = append(dst, `{"base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, body)
		dst = append(dst, `"}`...)
	case validJSON(body):
		dst = append(dst, body...)
	default:
		dst = appendString(dst, body)
	}
	return append(dst, '}')
}

// validJSON says whether b is one JSON value that may be embedded in a frame.
func validJSON(b []byte) bool {
	s := scanner{b: b}
	s.space()
	if !s.value(maxBodyDepth) {
		return false
	}
	s.space()
	return s.i == len(b)
}

// appendString appends valid UTF-8 as a JSON string. Unlike encoding/json it
// leaves <, > and & alone: the frame is never put into HTML.
func appendString(dst, b []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i, c := range b {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, b[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, b[start:]...), '"')
}

// unquote decodes a JSON string with escapes in it, quotes included.
func unquote(quoted []byte) ([]byte, bool) {
	var s string
	err := json.Unmarshal(quoted, &s)
	return []byte(s), err == nil
}
