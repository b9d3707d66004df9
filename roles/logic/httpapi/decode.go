package httpapi

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/envelope"
)

// maxDepth is how deep a JSON value in a request may be nested.
const maxDepth = 1000

// shape is a JSON object that a request consists of. field reads the value of
// one of its fields from d, or returns errUnknownField without reading.
type shape interface {
	field(d *decoder, name string) error
}

var errUnknownField = errors.New("unknown field")

// decode reads data, one JSON object and nothing after it, into s. It is strict:
// a field that s does not have, a field named twice, a value of another type,
// invalid UTF-8 and bytes after the object are errors that name the field.
func decode(data []byte, s shape) error {
	d := newDecoder(data)
	if err := d.object(s); err != nil {
		return err
	}
	return d.end()
}

// decoder reads JSON once, from front to back. Each method reads one value, and
// its error is for the caller of the API.
type decoder struct {
	data []byte
	dec  *jsontext.Decoder
	// name is the field whose value is being read; "" at the top.
	name string
}

func newDecoder(data []byte) *decoder {
	// Names used twice are looked for here (object): inside a message's body
	// they are the sender's and the receiver's affair.
	return &decoder{data: data, dec: jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true))}
}

// object reads a whole JSON object into s.
func (d *decoder) object(s shape) error {
	if len(d.data) == 0 {
		return envelope.Invalid("", "the request has no body; it takes a JSON object")
	}
	if err := d.open('{', "a JSON object"); err != nil {
		return err
	}
	var seen [24]string // more than any shape has fields, so nothing is missed
	n := 0
	for d.dec.PeekKind() != '}' {
		token, err := d.dec.ReadToken()
		if err != nil {
			return d.syntax(err)
		}
		name := token.String()
		for _, earlier := range seen[:n] {
			if earlier == name {
				return envelope.Invalid(name, "is there twice")
			}
		}
		d.name = name
		switch err := s.field(d, name); {
		case errors.Is(err, errUnknownField):
			return envelope.Invalid(name, "is not a field that this request has")
		case err != nil:
			return err
		}
		d.name = ""
		if n < len(seen) {
			seen[n] = name
			n++
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.syntax(err)
	}
	return nil
}

// open reads the beginning of an object or array.
func (d *decoder) open(kind jsontext.Kind, wanted string) error {
	if err := d.want(wanted, kind); err != nil {
		return err
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.syntax(err)
	}
	return nil
}

// end says whether nothing but white space is left.
func (d *decoder) end() error {
	_, err := d.dec.ReadToken()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return d.syntax(err)
	}
	return envelope.Invalid("", fmt.Sprintf("the request has more after its JSON value, at byte %d", d.dec.InputOffset()))
}

// want says whether the next value is of one of the kinds.
func (d *decoder) want(wanted string, kinds ...jsontext.Kind) error {
	got := d.dec.PeekKind()
	for _, kind := range kinds {
		if got == kind {
			return nil
		}
	}
	if kindName(got) == "" {
		_, err := d.dec.ReadToken()
		if err == nil {
			err = errors.New("no JSON value")
		}
		return d.syntax(err)
	}
	if d.name == "" {
		return envelope.Invalid("", fmt.Sprintf("the request must be %s, not %s", wanted, kindName(got)))
	}
	return envelope.Invalid(d.name, fmt.Sprintf("must be %s, not %s", wanted, kindName(got)))
}

// kindName is a JSON kind in words; "" for what is no JSON.
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

// syntax tells what is wrong with the JSON itself, and where.
func (d *decoder) syntax(err error) error {
	reason, offset := err.Error(), d.dec.InputOffset()
	var se *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		reason, offset = "it ends early", int64(len(d.data))
	case errors.As(err, &se):
		reason, offset = se.Err.Error(), se.ByteOffset
	}
	if d.name == "" {
		return envelope.Invalid("", fmt.Sprintf("the request is not valid JSON: %s, at byte %d", reason, offset))
	}
	return envelope.Invalid(d.name, fmt.Sprintf("is not valid JSON: %s, at byte %d of the request", reason, offset))
}

// text reads a string.
func (d *decoder) text() (string, error) {
	if err := d.want("a string", '"'); err != nil {
		return "", err
	}
	token, err := d.dec.ReadToken()
	if err != nil {
		return "", d.syntax(err)
	}
	return token.String(), nil
}

// texts reads an array of at most max strings.
func (d *decoder) texts(max int) ([]string, error) {
	if err := d.open('[', "an array of strings"); err != nil {
		return nil, err
	}
	name := d.name
	list := []string{}
	for d.dec.PeekKind() != ']' {
		if len(list) == max {
			return nil, envelope.Invalid(name, fmt.Sprintf("has more than %d entries", max))
		}
		if d.dec.PeekKind() != '"' {
			// The name with its index is only made for an error.
			d.name = fmt.Sprintf("%s[%d]", name, len(list))
		}
		s, err := d.text()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	return list, nil
}

// boolean reads true or false.
func (d *decoder) boolean() (bool, error) {
	if err := d.want("true or false", 't', 'f'); err != nil {
		return false, err
	}
	token, err := d.dec.ReadToken()
	if err != nil {
		return false, d.syntax(err)
	}
	return token.Bool(), nil
}

// integer reads a whole number from lo to hi.
func (d *decoder) integer(lo, hi int64) (int64, error) {
	if err := d.want("a whole number", '0'); err != nil {
		return 0, err
	}
	value, err := d.dec.ReadValue()
	if err != nil {
		return 0, d.syntax(err)
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < lo || n > hi {
		return 0, envelope.Invalid(d.name, fmt.Sprintf("must be a whole number from %d to %d", lo, hi))
	}
	return n, nil
}

// duration reads how long: a string ("24h", "90s") or a number of seconds.
func (d *decoder) duration() (time.Duration, error) {
	if err := d.want(`a string such as "24h" or a number of seconds`, '"', '0'); err != nil {
		return 0, err
	}
	var ttl time.Duration
	if d.dec.PeekKind() == '"' {
		text, err := d.text()
		if err != nil {
			return 0, err
		}
		if ttl, err = time.ParseDuration(text); err != nil {
			return 0, envelope.Invalid(d.name, `must be a duration such as "24h", "90m" or "30s", or a number of seconds`)
		}
	} else {
		value, err := d.dec.ReadValue()
		if err != nil {
			return 0, d.syntax(err)
		}
		s, err := strconv.ParseFloat(string(value), 64)
		if err != nil || s > maxSeconds {
			return 0, envelope.Invalid(d.name, "is more seconds than a duration has room for")
		}
		ttl = time.Duration(s * float64(time.Second))
	}
	if ttl <= 0 {
		return 0, envelope.Invalid(d.name, "must be more than 0")
	}
	return ttl, nil
}

// maxSeconds is what a time.Duration has room for, a little rounded down.
const maxSeconds = 9e9

// base64 reads a string of standard base64.
func (d *decoder) base64() ([]byte, error) {
	text, err := d.text()
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, envelope.Invalid(d.name, "is not base64 (standard alphabet, padded with =)")
	}
	return data, nil
}

// raw reads any value and gives its bytes as they were sent. They are a part
// of the request's own buffer.
func (d *decoder) raw() ([]byte, error) {
	if err := d.want("a JSON value", 'n', 't', 'f', '"', '0', '{', '['); err != nil {
		return nil, err
	}
	if tooDeep(d.data[d.dec.InputOffset():], maxDepth) {
		return nil, envelope.Invalid(d.name, fmt.Sprintf("is nested more than %d deep", maxDepth))
	}
	value, err := d.dec.ReadValue()
	if err != nil {
		return nil, d.syntax(err)
	}
	end := d.dec.InputOffset()
	return d.data[end-int64(len(value)) : end : end], nil
}

// tooDeep says whether the value that data begins with (after a separator) is
// nested deeper than limit. It stops where the value ends or the limit is
// passed, and does not care whether the value is valid.
func tooDeep(data []byte, limit int) bool {
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
