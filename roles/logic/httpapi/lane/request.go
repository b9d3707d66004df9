package lane

import (
	"bytes"
	"net/http"
	"net/textproto"
	"strings"
)

const (
	// firstBytes is a connection's buffer, which holds the requests of most
	// callers whole; maxBytes is the largest request, head and body, that the
	// lane takes.
	firstBytes = 4 << 10
	maxBytes   = 64 << 10
	// maxFields is how many header fields a request in the lane has at most.
	maxFields = 40
)

// verdict is what becomes of the bytes that were read.
type verdict int

const (
	foreign verdict = iota // they are net/http's
	partial                // they may be the beginning of a request for the lane
	whole                  // a request for the lane is there
)

// head is what is known of a request's head. A connection has one: callers send
// the same header again and again, so what is as it was last time is kept.
type head struct {
	line   []byte // the request line that the lane takes, with its end
	fields []field
	header http.Header
	host   string
	length int // of the body
	size   int // of the head, to its last byte
}

// field is a header field.
type field struct {
	name  string // as it was sent
	key   string // as net/http has it
	value []string
}

// judge looks at the bytes that were read. When they are a whole request, h is
// its head.
func (h *head) judge(read []byte) verdict {
	if len(read) < len(h.line) {
		if bytes.HasPrefix(h.line, read) {
			return partial
		}
		return foreign
	}
	if !bytes.HasPrefix(read, h.line) {
		return foreign
	}
	end := bytes.Index(read[len(h.line)-2:], []byte("\r\n\r\n"))
	switch {
	case end < 0 && len(read) < maxBytes:
		return partial
	case end < 0:
		return foreign
	}
	h.size = len(h.line) - 2 + end + 4
	if !h.parse(read[len(h.line) : h.size-2]) {
		return foreign
	}
	switch total := h.size + h.length; {
	case total > maxBytes:
		return foreign
	case total > len(read):
		return partial
	}
	return whole
}

// parse reads the fields; false: there is something that the lane does not know
// to the last byte.
func (h *head) parse(lines []byte) bool {
	h.length, h.host = -1, ""
	n, same := 0, true
	for len(lines) > 0 {
		end := bytes.IndexByte(lines, '\r')
		if end < 0 || end+1 >= len(lines) || lines[end+1] != '\n' || n == maxFields {
			return false
		}
		line := lines[:end]
		lines = lines[end+2:]
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return false
		}
		name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
		if !plain(value) {
			return false
		}
		if n == len(h.fields) || h.fields[n].name != string(name) {
			if !token(name) {
				return false
			}
			h.fields = append(h.fields[:n], field{name: string(name), key: textproto.CanonicalMIMEHeaderKey(string(name)), value: []string{string(value)}})
			same = false
		} else if h.fields[n].value[0] != string(value) {
			f := &h.fields[n]
			f.value = []string{string(value)}
			if h.header != nil && f.key != "Host" {
				h.header[f.key] = f.value
			}
		}
		if !h.settle(&h.fields[n]) {
			return false
		}
		n++
	}
	if h.length < 0 || h.host == "" {
		return false
	}
	if same && n == len(h.fields) && h.header != nil {
		return true
	}
	h.fields = h.fields[:n]
	return h.collect()
}

// collect makes the header of the fields; false: one is there twice.
func (h *head) collect() bool {
	h.header = make(http.Header, len(h.fields))
	for _, f := range h.fields {
		if _, twice := h.header[f.key]; twice {
			h.header = nil
			return false
		}
		h.header[f.key] = f.value
	}
	delete(h.header, "Host") // as net/http has it
	return true
}

// settle judges the fields that say what a request is; false: not one for the
// lane.
func (h *head) settle(f *field) bool {
	value := f.value[0]
	switch f.key {
	case "Host":
		if h.host != "" || !hostname(value) {
			return false
		}
		h.host = value
	case "Content-Length":
		if h.length >= 0 || value == "" || len(value) > 6 {
			return false
		}
		h.length = 0
		for i := range len(value) {
			if value[i] < '0' || value[i] > '9' {
				return false
			}
			h.length = 10*h.length + int(value[i]-'0')
		}
	case "Connection":
		return strings.EqualFold(value, "keep-alive")
	case "Transfer-Encoding", "Expect", "Upgrade", "Trailer", "Te", "Pragma", "Http2-Settings":
		return false
	}
	return true
}

// hostname says whether s may be a host and its port.
func hostname(s string) bool {
	for i := range len(s) {
		if c := s[i]; !wordByte(c) && c != '.' && c != ':' && c != '[' && c != ']' {
			return false
		}
	}
	return s != ""
}

func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// token says whether b is a field's name.
func token(b []byte) bool {
	for _, c := range b {
		if !wordByte(c) {
			return false
		}
	}
	return true
}

// plain says whether b is printable ASCII, blanks and tabs.
func plain(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c >= 0x7f {
			return false
		}
	}
	return true
}
