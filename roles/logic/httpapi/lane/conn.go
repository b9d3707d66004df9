package lane

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// What a connection does.
const (
	waiting int32 = iota // for the first byte of a request
	busy
	closed
)

// patience is how long the rest of a request may take to come, from its first
// bytes. After it the request is net/http's, which has its own patience.
const patience = 5 * time.Second

// coarse is how old a deadline may be before it is set anew: setting one takes
// longer than looking at the clock.
const coarse = time.Second

// conn is a connection in the lane. All but state is its goroutine's.
type conn struct {
	s      *Server
	tcp    *net.TCPConn
	state  atomic.Int32
	buf    []byte // what was read and not answered yet
	head   head
	ctx    context.Context
	cancel context.CancelFunc

	remote string
	url    url.URL
	req    http.Request
	blank  *http.Request // what req begins as: it has the context
	body   body
	answer answer

	readBy, writeBy time.Time // the deadlines that are set
	// met: a request was read.
	met bool
}

func newConn(s *Server, tcp *net.TCPConn) *conn {
	c := &conn{s: s, tcp: tcp, remote: tcp.RemoteAddr().String(), url: url.URL{Path: s.target}}
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.blank = (&http.Request{
		Method: http.MethodPost, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		RequestURI: s.target, RemoteAddr: c.remote,
	}).WithContext(c.ctx)
	c.head.line = []byte("POST " + s.target + " HTTP/1.1\r\n")
	c.answer.header = make(http.Header)
	return c
}

// serve answers requests until the connection ends or is net/http's.
func (c *conn) serve() {
	handOver := c.answerAll()
	c.cancel()
	c.s.leave(c)
	if handOver {
		c.s.handed.take(c.tcp, c.buf)
		return
	}
	_ = c.tcp.Close()
}

// answerAll says in the end whether the connection goes on in net/http.
func (c *conn) answerAll() (handOver bool) {
	for {
		switch c.read() {
		case foreign:
			return true
		case partial:
			return false
		}
		if !c.handle() {
			return false
		}
		c.met = true
		if !c.rest() {
			return false
		}
	}
}

// rest makes the bytes after the request that was answered the next one's;
// false: the server ends.
func (c *conn) rest() bool {
	n := copy(c.buf, c.buf[c.head.size+c.head.length:])
	c.buf = c.buf[:n]
	if n > 0 {
		return true // callers may send on before they have the answer
	}
	if cap(c.buf) > firstBytes {
		c.buf = nil // one large request must not cost memory for ever
	}
	c.state.Store(waiting)
	return !c.s.closing.Load() // which closes who waits, but looked before we did
}

// read reads until there is a whole request; partial: the connection ended, or
// waited long enough.
func (c *conn) read() verdict {
	if c.buf == nil {
		c.buf = make([]byte, 0, firstBytes)
	}
	if len(c.buf) == 0 {
		limit := c.s.HTTP.IdleTimeout
		if !c.met {
			limit = c.s.HTTP.ReadHeaderTimeout
		}
		if !c.fill(limit, coarse) {
			return partial
		}
		if !c.state.CompareAndSwap(waiting, busy) {
			return partial
		}
	}
	for again := c.met; ; {
		// After a first request net/http waits for four bytes before it has
		// anything to say, even of nonsense, and passes over the line ends among
		// them: some callers end a body with one.
		few := again && len(c.buf) < 4
		if again && !few {
			again = false
			blank := len(c.buf[:4]) - len(bytes.TrimLeft(c.buf[:4], "\r\n"))
			c.buf = c.buf[:copy(c.buf, c.buf[blank:])]
		}
		if v := c.head.judge(c.buf); v != partial && !few {
			return v
		}
		if len(c.buf) == cap(c.buf) {
			c.buf = slices.Grow(c.buf, len(c.buf)) // with what has come, not with what is announced
		}
		if !c.fill(patience, patience) {
			if few {
				return partial
			}
			return foreign
		}
	}
}

// fill reads once, for as long as the limit allows. A deadline that was set
// for it is good until it is slack too early.
func (c *conn) fill(limit, slack time.Duration) bool {
	by := time.Now().Add(limit)
	if early := by.Sub(c.readBy); early < 0 || early > slack {
		if c.tcp.SetReadDeadline(by) != nil {
			return false
		}
		c.readBy = by
	}
	n, err := c.tcp.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	return err == nil && n > 0
}

// handle answers the request in front of the buffer; false: it was the
// connection's last.
func (c *conn) handle() bool {
	c.req = *c.blank
	c.req.URL = &c.url
	c.req.Header, c.req.Host = c.head.header, c.head.host
	c.req.ContentLength = int64(c.head.length)
	c.body.Reset(c.buf[c.head.size:][:c.head.length])
	c.req.Body = &c.body
	c.answer.reset()
	if !c.call() {
		return false
	}
	last := c.s.closing.Load()
	wire := c.answer.wire(time.Now(), &last)
	if by := time.Now().Add(c.s.HTTP.WriteTimeout); by.Sub(c.writeBy) > coarse {
		if c.tcp.SetWriteDeadline(by) != nil {
			return false
		}
		c.writeBy = by
	}
	_, err := c.tcp.Write(wire)
	return err == nil && !last
}

// call calls the handler; false: it gave up on the request by a panic, which is
// logged as net/http does.
func (c *conn) call() (ok bool) {
	defer func() {
		v := recover()
		if v == nil || v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
			return
		}
		if c.s.HTTP.ErrorLog != nil {
			c.s.HTTP.ErrorLog.Printf("http: panic serving %s: %v\n%s", c.remote, v, debug.Stack())
		}
	}()
	c.s.HTTP.Handler.ServeHTTP(&c.answer, &c.req)
	return true
}

// body is a request's body.
type body struct{ bytes.Reader }

// Close has nothing to do.
func (*body) Close() error { return nil }

// answer gathers what the handler answers.
type answer struct {
	header http.Header
	status int
	body   []byte
	out    []byte
	names  []string
	second int64  // of date
	date   string // as the header has it
}

func (a *answer) reset() {
	clear(a.header)
	a.status, a.body = 0, a.body[:0]
	if cap(a.out) > maxBytes {
		a.out, a.body = nil, nil // an answer to many users
	}
}

// Header is the answer's header.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader sets the status; the first call counts.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

// Write adds to the body.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.body = append(a.body, p...)
	return len(p), nil
}

// wire is the answer as it is sent. last is, and becomes, whether the
// connection ends with it.
func (a *answer) wire(now time.Time, last *bool) []byte {
	a.WriteHeader(http.StatusOK)
	if unix := now.Unix(); unix != a.second {
		a.second, a.date = unix, now.UTC().Format(http.TimeFormat)
	}
	b := append(a.out[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(append(b, ' '), http.StatusText(a.status)...)
	b = append(append(b, "\r\nDate: "...), a.date...)
	b = strconv.AppendInt(append(b, "\r\nContent-Length: "...), int64(len(a.body)), 10)
	a.names = a.names[:0]
	for name := range a.header {
		a.names = append(a.names, name)
	}
	slices.Sort(a.names)
	for _, name := range a.names {
		switch name {
		case "Date", "Content-Length":
			continue
		case "Connection":
			*last = *last || strings.EqualFold(a.header.Get(name), "close")
			continue
		}
		for _, value := range a.header[name] {
			b = append(append(b, "\r\n"...), name...)
			b = append(append(b, ": "...), lineEnds.Replace(value)...)
		}
	}
	if *last {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	b = append(b, a.body...)
	a.out = b
	return b
}

// lineEnds keeps a value in its line, as net/http does.
var lineEnds = strings.NewReplacer("\n", " ", "\r", " ")
