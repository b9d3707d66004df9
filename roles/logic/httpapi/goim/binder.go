package goim

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// binder reads a query like goim's framework did. A malformed number is reported
// first, and missing fields only if all numbers are well formed. Both are answered
// with status 400, and as plain text, since the framework had sent the header by
// then.
type binder struct {
	query   url.Values
	err     *envelope.Error
	missing []string
	field   string
}

func bind(c *httpcall.Call) *binder { return &binder{query: c.Params()} }

// parse reads one number. An empty text is 0.
func (b *binder) parse(field, text string, bits int) int64 {
	if text == "" || b.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		b.err = envelope.Invalid(field, err.Error())
		return 0
	}
	return n
}

func (b *binder) integer(field string, bits int) int64 {
	return b.parse(field, b.query.Get(field), bits)
}

func (b *binder) integers(field string) []int64 {
	list := make([]int64, 0, len(b.query[field]))
	for _, text := range b.query[field] {
		list = append(list, b.parse(field, text, 64))
	}
	return list
}

// require records a field as missing unless it is there. name is the field's name
// in goim's code, which callers saw in the message.
func (b *binder) require(field, name string, there bool) {
	if !there {
		b.missing = append(b.missing, fmt.Sprintf("Key: '%s' Error:Field validation for '%s' failed on the 'required' tag", name, name))
		if b.field == "" {
			b.field = field
		}
	}
}

// ok reports whether the query could be read. If not, it has answered.
func (b *binder) ok(c *httpcall.Call) bool {
	if b.err == nil && len(b.missing) > 0 {
		b.err = envelope.Invalid(b.field, strings.Join(b.missing, "\n"))
	}
	if b.err == nil {
		return true
	}
	c.Report(b.err)
	write(c, http.StatusBadRequest, httpcall.ContentText, codeRequestErr, b.err.Message)
	return false
}
