// Package jsonread reads the JSON of requests in one pass. It reads values of known
// types, and its errors name the field and the position.
//
// A Reader is strict for the HTTP APIs. It is lenient for clients whose bodies were
// always read by encoding/json. The package accepts only valid JSON and keeps no copy
// of its input. Its errors are of type *envelope.Error and are worded for the sender
// of a request. It does not decode into structs and does not write JSON.
package jsonread

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/envelope"
	"imgo/internal/settings"
)

// MaxDepth bounds how deep a JSON value in a request may be nested.
const MaxDepth = 1000

// MaxSeconds is the largest number of seconds that fits in a time.Duration, rounded
// down a little.
const MaxSeconds = 9e9

// Fields receives the fields of the JSON object of a request. Field reads the value of
// the named field from r. It returns ErrUnknownField, and reads nothing, if there is
// no such field.
type Fields interface {
	Field(r *Reader, name string) error
}

// ErrUnknownField is the error of Fields for an unknown name.
var ErrUnknownField = errors.New("unknown field")

// Object reads data into f. Data must be one JSON object with nothing after it. Object
// returns an error that names the field if a field is unknown or repeated, has a value
// of the wrong type or contains invalid UTF-8. Bytes after the object are an error
// too.
func Object(data []byte, f Fields) error {
	r := New(data)
	if err := r.Object(f); err != nil {
		return err
	}
	return r.End()
}

// Reader reads one JSON text. Each method reads one value. It is not safe for
// concurrent use.
type Reader struct {
	data []byte
	buf  bytes.Buffer
	dec  jsontext.Decoder
	// name is the field whose value is being read. It is empty at the top level.
	name    string
	lenient bool
}

// New returns a strict reader.
func New(data []byte) *Reader {
	r := &Reader{}
	r.Reset(data)
	return r
}

// NewLenient returns a reader that replaces invalid UTF-8 by U+FFFD and accepts the
// same nesting as encoding/json.
func NewLenient(data []byte) *Reader {
	r := &Reader{lenient: true}
	r.Reset(data)
	return r
}

// Reset makes the reader read data from the start.
func (r *Reader) Reset(data []byte) {
	r.data, r.name = data, ""
	r.buf = *bytes.NewBuffer(data)
	// Reader.Object rejects repeated names itself. Inside the body of a message, repeated
	// names concern only its sender and its receiver.
	r.dec.Reset(&r.buf, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(r.lenient))
}

// Kind returns the kind of the next value: 'n', 't', 'f', '"', '0', '{' or '['. It
// returns another value at the end and before invalid JSON.
func (r *Reader) Kind() jsontext.Kind { return r.dec.PeekKind() }

// Object reads one JSON object into f. It rejects names that occur twice.
func (r *Reader) Object(f Fields) error {
	if len(r.data) == 0 {
		return envelope.Invalid("", "the request has no body; it takes a JSON object")
	}
	var seen [24]string // more than the fields of any request, so no repetition is missed
	n := 0
	return r.Members(func(text []byte) error {
		name := string(text)
		if slices.Contains(seen[:n], name) {
			return envelope.Invalid(name, "is there twice")
		}
		if n < len(seen) {
			seen[n] = name
			n++
		}
		r.name = name
		err := f.Field(r, name)
		if errors.Is(err, ErrUnknownField) {
			return envelope.Invalid(name, "is not a field that this request has")
		}
		r.name = ""
		return err
	})
}

// Members reads an object. It calls member after each name, and member must read the
// value. A name may occur more than once. The name may be a part of the input, so
// member must not keep it.
func (r *Reader) Members(member func(name []byte) error) error {
	if err := r.open('{', "a JSON object"); err != nil {
		return err
	}
	for r.dec.PeekKind() != '}' {
		value, err := r.dec.ReadValue()
		if err != nil {
			return r.syntax(err)
		}
		name := value[1 : len(value)-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name, _ = jsontext.AppendUnquote(nil, value) // the only possible error is invalid UTF-8
		}
		if err := member(name); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntax(err)
	}
	return nil
}

// Elements reads an array. It calls element for each element, and element must read
// it. Errors call the array wanted.
func (r *Reader) Elements(wanted string, element func(i int) error) error {
	if err := r.open('[', wanted); err != nil {
		return err
	}
	for i := 0; r.dec.PeekKind() != ']'; i++ {
		if err := element(i); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntax(err)
	}
	return nil
}

// open reads the opening bracket of an object or array. It returns an error if the
// next value is of another kind.
func (r *Reader) open(kind jsontext.Kind, wanted string) error {
	if err := r.want(wanted, kind); err != nil {
		return err
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntax(err)
	}
	return nil
}

// End returns an error if more than white space is left.
func (r *Reader) End() error {
	_, err := r.dec.ReadToken()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return r.syntax(err)
	}
	return envelope.Invalid("", fmt.Sprintf("the request has more after its JSON value, at byte %d", r.dec.InputOffset()))
}

// want returns an error if the kind of the next value is none of kinds.
func (r *Reader) want(wanted string, kinds ...jsontext.Kind) error {
	got := r.dec.PeekKind()
	if slices.Contains(kinds, got) {
		return nil
	}
	if kindName(got) == "" {
		_, err := r.dec.ReadToken()
		if err == nil {
			err = errors.New("no JSON value")
		}
		return r.syntax(err)
	}
	if r.name == "" {
		return envelope.Invalid("", fmt.Sprintf("the request must be %s, not %s", wanted, kindName(got)))
	}
	return envelope.Invalid(r.name, fmt.Sprintf("must be %s, not %s", wanted, kindName(got)))
}

// kindName returns a JSON kind in words. It returns "" for invalid JSON.
func kindName(kind jsontext.Kind) string {
	switch kind {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return ""
}

// syntax converts err into an error of the request that contains the position.
func (r *Reader) syntax(err error) error {
	reason, offset := err.Error(), r.dec.InputOffset()
	var se *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		reason, offset = "it ends early", int64(len(r.data))
	case errors.As(err, &se):
		reason, offset = se.Err.Error(), se.ByteOffset
	}
	if r.name == "" {
		return envelope.Invalid("", fmt.Sprintf("the request is not valid JSON: %s, at byte %d", reason, offset))
	}
	return envelope.Invalid(r.name, fmt.Sprintf("is not valid JSON: %s, at byte %d of the request", reason, offset))
}

// Text reads a string.
func (r *Reader) Text() (string, error) {
	if err := r.want("a string", '"'); err != nil {
		return "", err
	}
	token, err := r.dec.ReadToken()
	if err != nil {
		return "", r.syntax(err)
	}
	return token.String(), nil
}

// Texts reads an array of at most max strings.
func (r *Reader) Texts(max int) ([]string, error) {
	name, list := r.name, []string{}
	err := r.Elements("an array of strings", func(i int) error {
		if i == max {
			return envelope.Invalid(name, fmt.Sprintf("has more than %d entries", max))
		}
		if r.dec.PeekKind() != '"' {
			// The indexed name is only needed for an error.
			r.name = fmt.Sprintf("%s[%d]", name, i)
		}
		s, err := r.Text()
		list = append(list, s)
		return err
	})
	return list, err
}

// Raws reads an array of at most max values of any kind. Errors call the array name
// and its expected content wanted.
func (r *Reader) Raws(name, wanted string, max int) ([][]byte, error) {
	list := [][]byte{}
	err := r.Elements(wanted, func(i int) error {
		r.name = fmt.Sprintf("%s[%d]", name, i)
		if i == max {
			return envelope.Invalid(name, fmt.Sprintf("has more than %d entries", max))
		}
		value, err := r.Raw()
		list = append(list, value)
		return err
	})
	return list, err
}

// Boolean reads true or false.
func (r *Reader) Boolean() (bool, error) {
	if err := r.want("true or false", 't', 'f'); err != nil {
		return false, err
	}
	token, err := r.dec.ReadToken()
	if err != nil {
		return false, r.syntax(err)
	}
	return token.Bool(), nil
}

// Integer reads a whole number from lo to hi.
func (r *Reader) Integer(lo, hi int64) (int64, error) {
	if err := r.want("a whole number", '0'); err != nil {
		return 0, err
	}
	value, err := r.dec.ReadValue()
	if err != nil {
		return 0, r.syntax(err)
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil { // JSON knows one type of number, so 4.0 and 4e0 are whole numbers too.
		var f float64
		if f, err = strconv.ParseFloat(string(value), 64); f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			err = strconv.ErrRange
		}
		n = int64(f)
	}
	if err != nil || n < lo || n > hi {
		return 0, envelope.Invalid(r.name, fmt.Sprintf("must be a whole number from %d to %d", lo, hi))
	}
	return n, nil
}

// Duration reads a string such as "7d", "24h" or "90s", or a number of seconds. The shortest duration
// is a millisecond.
func (r *Reader) Duration() (time.Duration, error) {
	if err := r.want(`a string such as "24h" or a number of seconds`, '"', '0'); err != nil {
		return 0, err
	}
	var ttl time.Duration
	if r.dec.PeekKind() == '"' {
		text, err := r.Text()
		if err != nil {
			return 0, err
		}
		if ttl, err = settings.ParseDuration(text); err != nil {
			return 0, envelope.Invalid(r.name, err.Error())
		}
	} else {
		value, err := r.dec.ReadValue()
		if err != nil {
			return 0, r.syntax(err)
		}
		s, err := strconv.ParseFloat(string(value), 64)
		if err != nil || s > MaxSeconds {
			return 0, envelope.Invalid(r.name, "is more seconds than a duration has room for")
		}
		ttl = time.Duration(s * float64(time.Second))
	}
	if ttl < time.Millisecond {
		return 0, envelope.Invalid(r.name, "must be at least a millisecond")
	}
	return ttl, nil
}

// Base64 reads a string in standard base64.
func (r *Reader) Base64() ([]byte, error) {
	text, err := r.Text()
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, envelope.Invalid(r.name, "is not base64 (standard alphabet, padded with =)")
	}
	return data, nil
}

// Raw reads any value and returns its bytes unchanged. They are a part of the input.
func (r *Reader) Raw() ([]byte, error) {
	if err := r.want("a JSON value", 'n', 't', 'f', '"', '0', '{', '['); err != nil {
		return nil, err
	}
	if !r.lenient && TooDeep(r.data[r.dec.InputOffset():], MaxDepth) {
		return nil, envelope.Invalid(r.name, fmt.Sprintf("is nested more than %d deep", MaxDepth))
	}
	value, err := r.dec.ReadValue()
	if err != nil {
		return nil, r.syntax(err)
	}
	end := r.dec.InputOffset()
	return r.data[end-int64(len(value)) : end : end], nil
}

// TooDeep reports whether the first value of data is nested deeper than limit. A
// separator may stand before the value. TooDeep stops at the end of the value or as
// soon as the limit is passed. It does not check that the value is valid.
func TooDeep(data []byte, limit int) bool {
	data = bytes.TrimLeft(data, " \t\r\n:,")
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted:
			if c == '\\' {
				i++
			} else if c == '"' {
				quoted = false
			}
		case c == '"':
			quoted = true
		case c == '[' || c == '{':
			if depth++; depth > limit {
				return true
			}
		case c == ']' || c == '}':
			if depth--; depth <= 0 {
				return false
			}
		case c == ',' && depth == 0:
			return false
		}
	}
	return false
}
