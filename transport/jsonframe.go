package transport

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/internal/jsonread"
	"imgo/protocol"
)

// Depth limits of JSON, in levels of nesting. A client's message needs few
// levels. A pushed body may be as deep as encoding/json reads (10,000), together
// with the array and the object around it. A deeper body is sent as a string.
const (
	maxFrameDepth = 512
	maxBodyDepth  = 9998
)

// jsonOverhead is about the size of a server frame without its body, in bytes.
const jsonOverhead = 96

// JSONLimit returns the size of the largest text message, in bytes, for a body
// limit. Escapes and base64 make a body longer, and the other members need room.
// ParseJSON bounds the body itself.
func JSONLimit(maxBody int) int { return 2*maxBody + 1024 }

// ParseJSON parses a client's text message: one object with the members ver, op, seq and body.
// It is as lenient as encoding/json was for the clients of 2016. The case of names does not
// matter, and the last of duplicate members counts. null is no value. Unknown members are
// skipped, and so is what follows the object. op is required. ver and seq must fit int16 and
// int32, and are 0 if they are missing. id is a decimal string of 64 bits. If the version is not
// 2, a value of id that is no such string is skipped. Packet.Body is the raw JSON of the body, a
// part of b, or nil if there is none. maxBody bounds the size of the body as bodySize measures
// it. Every other text is a *ProtocolError.
func ParseJSON(b []byte, maxBody int) (Packet, error) {
	switch kind := jsontext.Value(b).Kind(); {
	case kind == '[':
		return Packet{}, badJSON("an array where one object is expected")
	case kind != '{':
		return Packet{}, badJSON("no object")
	case tooDeep(b, maxFrameDepth+1): // checked first, because the validation is recursive
		return Packet{}, badJSON("a too deeply nested value")
	case !validJSON(b):
		dec := jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if err := dec.SkipValue(); err != nil {
			return Packet{}, badJSON(jsonFault(err))
		}
		b = b[:dec.InputOffset()]
	}
	if !utf8.Valid(b) {
		return Packet{}, badPacket("bad_utf8", "text message is not valid UTF-8")
	}
	var p Packet
	hasOp, badID := false, false
	for name, value := range members(b) {
		if memberIs(name, "body") {
			p.Body = value
			continue
		}
		if string(value) == "null" {
			continue
		}
		var err error
		switch {
		case memberIs(name, "ver"):
			var n int64
			n, err = strconv.ParseInt(string(value), 10, 16)
			p.Version = int16(n)
		case memberIs(name, "op"):
			p.Op, err = parseInt32(value)
			hasOp = true
		case memberIs(name, "seq"):
			p.Seq, err = parseInt32(value)
		case memberIs(name, "id"):
			p.ID, badID = parseID(value)
		}
		if err != nil {
			return Packet{}, badJSON(strings.ToLower(string(name)) + " is not an integer in range")
		}
	}
	switch {
	case !hasOp:
		return Packet{}, badJSON("no op")
	case badID && p.Version == protocol.Version2:
		return Packet{}, badJSON("id is not a decimal string of 64 bits")
	case len(p.Body) > maxBody: // the size is at most that of the JSON
		if size := bodySize(p.Body); size > maxBody {
			return Packet{}, tooLarge("body of %d bytes is over the limit of %d", size, maxBody)
		}
	}
	return p, nil
}

// bodySize returns the size in bytes of what a JSON body stands for, as appendJSONBody writes it: the text of a
// string, the bytes of {"base64":"…"}, or the JSON itself.
func bodySize(body []byte) int {
	switch body[0] {
	case '"':
		text, _ := jsontext.AppendUnquote(nil, body) // its error only tells of surrogates
		return len(text)
	case '{':
		n, encoded := 0, 0
		for name, value := range members(body) {
			if n++; string(name) == "base64" && value[0] == '"' {
				encoded = len(bytes.Trim(value, `"=`))
			}
		}
		if n == 1 && encoded > 0 {
			return base64.RawStdEncoding.DecodedLen(encoded)
		}
	}
	return len(body)
}

// parseID reads the id of a message, a JSON string; 0 if bad.
func parseID(value []byte) (id uint64, bad bool) {
	if len(value) < 3 || value[0] != '"' || value[1] == '+' {
		return 0, true
	}
	id, err := strconv.ParseUint(string(value[1:len(value)-1]), 10, 64)
	if err != nil {
		return 0, true
	}
	return id, false
}

// memberIs reports whether a member has this name, in any case.
func memberIs(name []byte, want string) bool {
	return string(name) == want || len(name) >= len(want) && bytes.EqualFold(name, []byte(want))
}

func parseInt32(value []byte) (int32, error) {
	n, err := strconv.ParseInt(string(value), 10, 32)
	return int32(n), err
}

func badJSON(reason string) *ProtocolError { return badPacket("bad_json", "text message: %s", reason) }

// validJSON reports whether b is one JSON value, as encoding/json reads it: a
// name may come twice, and an escape may be half of a surrogate pair.
func validJSON(b []byte) bool {
	return jsontext.Value(b).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// tooDeep reports whether the JSON value b is nested deeper than limit.
func tooDeep(b []byte, limit int) bool {
	return len(b) > limit && jsonread.TooDeep(b, limit)
}

// jsonFault returns what is wrong with a text that is not JSON.
func jsonFault(err error) string {
	if syntax := (*jsontext.SyntacticError)(nil); errors.As(err, &syntax) {
		return fmt.Sprintf("%v at byte %d", syntax.Err, syntax.ByteOffset)
	}
	return "it ends early"
}

// members returns an iterator over the members of a valid JSON object. Names
// have no quotes and escapes, and values are parts of b.
func members(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := bytes.IndexByte(b, '{') + 1; ; {
			i += len(b[i:]) - len(bytes.TrimLeft(b[i:], " \t\r\n,"))
			if b[i] == '}' {
				return
			}
			end := stringEnd(b, i)
			name := b[i+1 : end-1]
			if bytes.IndexByte(name, '\\') >= 0 {
				name, _ = jsontext.AppendUnquote(nil, b[i:end]) // its error only tells of surrogates
			}
			i = end + len(b[end:]) - len(bytes.TrimLeft(b[end:], " \t\r\n:"))
			end = valueEnd(b, i)
			if !yield(name, b[i:end:end]) {
				return
			}
			i = end
		}
	}
}

// valueEnd returns the index behind the value that begins at b[i], a member's
// value in a valid JSON object.
func valueEnd(b []byte, i int) int {
	for depth := 0; ; i++ {
		switch b[i] {
		case '"':
			i = stringEnd(b, i) - 1
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // of the object around a number or literal
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
}

// stringEnd returns the index behind the valid JSON string that begins at b[i].
func stringEnd(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// AppendJSONObject appends one object of a server frame, with its members in the
// order ver, op, seq, id (if withID), body. A body that is JSON goes in as it is,
// other UTF-8 as a string, other bytes as {"base64":"…"}, and an empty body as {}.
// So the frame is valid JSON and valid UTF-8, whatever was pushed. Without an id
// the body is as the server of 2016 encoded it: compact, and safe in HTML.
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
	if withID || len(body) == 0 {
		return append(appendJSONBody(dst, body), '}')
	}
	if !tooDeep(body, maxBodyDepth) { // encoding/json goes little deeper
		var compact bytes.Buffer
		if json.Compact(&compact, body) == nil && utf8.Valid(body) {
			return append(appendHTMLSafe(dst, compact.Bytes()), '}')
		}
	}
	return append(appendHTMLSafe(dst, appendJSONBody(nil, body)), '}')
}

// appendHTMLSafe appends valid JSON with the characters escaped that encoding/json
// escapes.
func appendHTMLSafe(dst, text []byte) []byte {
	buf := bytes.NewBuffer(dst)
	json.HTMLEscape(buf, text)
	return buf.Bytes()
}

func appendJSONBody(dst, body []byte) []byte {
	switch {
	case len(body) == 0:
		return append(dst, `{}`...)
	case !utf8.Valid(body):
		dst = append(dst, `{"base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, body)
		return append(dst, `"}`...)
	case !tooDeep(body, maxBodyDepth) && validJSON(body):
		return append(dst, body...)
	}
	dst, _ = jsontext.AppendQuote(dst, body) // its error only tells of UTF-8
	return dst
}
