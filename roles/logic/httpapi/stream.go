package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

const (
	// streamWindow bounds one stream's lines that were read and not answered,
	// in bytes. A line of more than httpcall.LargeBody is in flight alone.
	streamWindow = 1 << 20
	// streamMinWeight is what a line counts for at least, so that 256 lines are
	// in flight at most. A kept push waits for a sync of the disk: where that
	// takes 5 ms, 256 in flight make 50,000 pushes a second.
	streamMinWeight = 4 << 10
	// streamIdle is how long a stream lasts without a byte from its caller.
	streamIdle = 2 * time.Minute
	// streamStall is how long a caller may leave results unread.
	streamStall = 30 * time.Second
	// streamLinger bounds the reading of a rest that the server does not want.
	// A connection that is closed with unread bytes may lose the last results.
	streamLinger = 500 * time.Millisecond
	// streamFlush is the size of the pieces in which results are written. Each
	// piece has a deadline of its own.
	streamFlush = 32 << 10
)

// contentLines is one JSON value a line.
const contentLines = "application/x-ndjson"

// How a stream may end before its caller ends it.
var (
	errStreamIdle = envelope.Invalid("", fmt.Sprintf("no byte came for %s, which ends a stream", streamIdle))
	errStreamSlow = envelope.Invalid("", fmt.Sprintf("a large line took more than %s, which ends a stream", readTimeout))
	errStreamCut  = envelope.Invalid("", "the request body ended early")
	errStreamEnds = envelope.Errorf(envelope.CodeUnavailable,
		"the server ends its streams: open another one and send the pushes again that have no result")
	errStreamStall = errors.New("the caller does not read its results")
)

// pushStream is one call of POST /v1/push/stream. One goroutine reads lines,
// workers push them, and the handler's goroutine writes the results in the
// order of the lines.
type pushStream struct {
	pushHandlers
	call *call
	conn *http.ResponseController
	// items has the lines in their order. The reader closes it. Its capacity
	// is more than the window lets in, so that sending never blocks.
	items chan streamItem
	// window is acquired by the reader and released when a result is written.
	window *semaphore.Weighted
	// work hands an item to an idle worker. The reader closes it.
	work    chan streamItem
	workers sync.WaitGroup
	order   pushOrder // the reader's
	// lineBy is when a large line has to be there. It is the reader's.
	lineBy time.Time
	// end is why the server ends the stream, nil if the caller did. The reader
	// sets it before it closes items.
	end error

	stopped chan struct{} // closed when reading has to end

	mu     sync.Mutex
	stop   error // why reading has to end
	closed bool  // no deadline may be set any more
}

// streamItem is the push of one line.
type streamItem struct {
	*pushItem
	weight int64
	large  bool // it holds a place for large bodies until it was pushed
}

// stream answers POST /v1/push/stream: one push a line, one result a line.
func (h pushHandlers) stream(c *call) error {
	if c.R.Header.Get("Idempotency-Key") != "" {
		return envelope.Invalid("Idempotency-Key", "is not a header for a stream: give each push its own idempotency_key")
	}
	s := &pushStream{
		pushHandlers: h, call: c, conn: http.NewResponseController(c.W),
		items:  make(chan streamItem, streamWindow/streamMinWeight+1),
		window: semaphore.NewWeighted(streamWindow), work: make(chan streamItem), stopped: make(chan struct{}),
	}
	s.serve()
	return nil
}

// serve runs the stream until all its results are written, or cannot be.
func (s *pushStream) serve() {
	// HTTP/2 needs no permission, and without a connection there is nothing to
	// permit. An error here shows as an early end of the body.
	_ = s.conn.EnableFullDuplex()
	header := s.call.W.Header()
	header.Set("Content-Type", contentLines)
	if s.call.R.ProtoMajor == 1 {
		// The server may end a stream in the middle of its body. Nothing of the
		// rest must be taken for another request.
		header.Set("Connection", "close")
	}
	s.call.Status = http.StatusOK
	if s.call.R.Header.Get("Expect") == "" { // else the header must not come before "100 Continue"
		s.call.W.WriteHeader(http.StatusOK)
		_ = s.write(nil)
	}

	detach := context.AfterFunc(s.ends, func() { s.stopReading(errStreamEnds) })
	defer detach()
	go s.readLines()
	defer s.finish()
	s.writeResults()
}

// finish ends what still runs. After writeResults that is nothing, unless it
// panicked.
func (s *pushStream) finish() {
	s.stopReading(errStreamEnds)
	for item := range s.items {
		s.window.Release(item.weight)
	}
	s.workers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	// net/http still writes the end of the answer, and reads a little of the rest before it closes
	// the connection.
	_ = s.conn.SetWriteDeadline(time.Now().Add(streamStall))
	_ = s.conn.SetReadDeadline(time.Now().Add(streamLinger))
}

// stopReading ends the reading of lines. Only the first reason counts.
func (s *pushStream) stopReading(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil || s.closed {
		return
	}
	s.stop = why
	close(s.stopped)
	_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}

// Read reads from the body. The deadline rolls forward with every read, and is
// none while the reader waits for the window. Deadlines fail only without a
// connection, as in tests.
func (s *pushStream) Read(p []byte) (int, error) {
	by := time.Now().Add(streamIdle)
	if !s.lineBy.IsZero() && s.lineBy.Before(by) {
		by = s.lineBy
	}
	if err := s.setReadDeadline(by); err != nil {
		return 0, err
	}
	n, err := s.call.R.Body.Read(p)
	stop := s.setReadDeadline(time.Time{})
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return n, err
	case stop != nil:
		return n, stop
	case errors.Is(err, os.ErrDeadlineExceeded) && s.lineBy.IsZero():
		return n, errStreamIdle
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, errStreamSlow
	}
	return n, errStreamCut
}

// setReadDeadline sets the deadline, or returns why reading has to end.
func (s *pushStream) setReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop == nil {
		_ = s.conn.SetReadDeadline(t)
	}
	return s.stop
}

// readLines reads lines and has them pushed, until the body ends.
func (s *pushStream) readLines() {
	defer close(s.items)
	defer close(s.work)
	defer func() {
		if v := recover(); v != nil {
			s.end = fmt.Errorf("the reader of a stream panicked: %v\n%s", v, debug.Stack())
		}
	}()
	lines := bufio.NewReaderSize(s, httpcall.LargeBody)
	for {
		item, line, err := s.readLine(lines)
		// A line is whole with its end, or at the end of the body.
		if whole := err == nil || errors.Is(err, io.EOF); whole && len(bytes.TrimSpace(line)) > 0 {
			s.accept(item, line)
		} else {
			s.freePlace(item)
			s.window.Release(item.weight)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.end = err
			}
			return
		}
	}
}

// readLine reads one line. The item holds its part of the window, and a large
// line's place if it has got one, also when there is an error.
func (s *pushStream) readLine(lines *bufio.Reader) (item streamItem, line []byte, err error) {
	limit := int64(s.cfg.MaxBody)
	part, err := lines.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return s.readLargeLine(lines, part)
	}
	item.weight = max(int64(len(part)), streamMinWeight)
	s.acquire(item)
	if int64(len(part)) > limit {
		return item, nil, lineTooLarge(limit)
	}
	return item, bytes.Clone(part), err
}

// readLargeLine reads the rest of a line that does not fit the buffer.
func (s *pushStream) readLargeLine(lines *bufio.Reader, part []byte) (item streamItem, line []byte, err error) {
	limit := int64(s.cfg.MaxBody)
	item = streamItem{weight: streamWindow}
	s.acquire(item)
	if err := s.acquirePlace(); err != nil {
		return item, nil, err
	}
	item.large = true
	// A place is not for a caller that sends slowly.
	s.lineBy = time.Now().Add(readTimeout)
	defer func() { s.lineBy = time.Time{} }()
	for full := true; full; {
		if int64(len(line)+len(part)) > limit {
			return item, nil, lineTooLarge(limit)
		}
		line = append(line, part...)
		part, err = lines.ReadSlice('\n')
		full = errors.Is(err, bufio.ErrBufferFull)
	}
	if int64(len(line)+len(part)) > limit {
		return item, nil, lineTooLarge(limit)
	}
	return item, append(line, part...), err
}

// acquire waits for the item's part of the window. The writer always gets on, so the
// wait needs no end of its own.
func (s *pushStream) acquire(item streamItem) {
	_ = s.window.Acquire(context.Background(), item.weight)
}

// acquirePlace waits for one of the places for large bodies, which other callers may
// hold for long. It returns an error if the stream is to end, or after Timeout.
func (s *pushStream) acquirePlace() error {
	timeout := time.NewTimer(s.cfg.Timeout)
	defer timeout.Stop()
	select {
	case s.shared.Large <- struct{}{}:
		return nil
	case <-s.stopped:
		return s.setReadDeadline(time.Time{})
	case <-timeout.C:
		return httpcall.ErrNoPlace
	}
}

func lineTooLarge(limit int64) error {
	return envelope.Errorf(envelope.CodeTooLarge, "the line is over the limit of %d bytes (http.body_limit), which ends the stream", limit)
}

// accept has one line pushed, or refuses it.
func (s *pushStream) accept(item streamItem, line []byte) {
	if err := s.call.admit(time.Now()); err != nil {
		item.pushItem = &pushItem{err: err, done: make(chan struct{})}
	} else {
		item.pushItem = newPushItem(line, s.cfg.MaxUsers)
	}
	if item.err != nil {
		s.freePlace(item)
		close(item.done)
		s.items <- item
		return
	}
	s.order.add(item.pushItem)
	s.items <- item
	select {
	case s.work <- item:
	default:
		s.workers.Go(func() { s.push(item) })
	}
}

// push pushes an item and those that come after it, as long as the stream
// lasts. Items are handed to workers in order, so the ones that an item waits
// for are with a worker already.
func (s *pushStream) push(item streamItem) {
	// Lines that were read are pushed, also when their caller has gone away.
	ctx := context.WithoutCancel(s.call.R.Context())
	for more := true; more; item, more = <-s.work {
		item.wait()
		s.runWithin(ctx, item.pushItem, s.call.key)
		s.freePlace(item)
	}
}

func (s *pushStream) freePlace(item streamItem) {
	if item.large {
		<-s.shared.Large
	}
}

// writeResults writes the results in order. They are flushed when the next one
// is not there yet.
func (s *pushStream) writeResults() {
	c := s.call
	w := &resultWriter{stream: s}
	for {
		item, open := w.next()
		if !open {
			break
		}
		w.buf = append(c.appendItem(w.buf, item.pushItem), '\n')
		item.push, item.result = nil, nil // pushOrder may still know the item
		if len(w.buf) >= streamFlush {
			w.flush()
		}
		s.window.Release(item.weight)
	}
	if s.end != nil && !w.failed {
		p := httpcall.Explain(s.end)
		s.metrics.problem(&p)
		w.buf = append(appendItemProblem(w.buf, &p, `,"end":true`), '\n')
	}
	w.flush()
}

// write writes and flushes within streamStall. Between writes there is no
// deadline: HTTP/2 ends a stream whose deadline has passed.
func (s *pushStream) write(piece []byte) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(streamStall))
	defer func() { _ = s.conn.SetWriteDeadline(time.Time{}) }()
	if len(piece) > 0 {
		if _, err := s.call.W.Write(piece); err != nil {
			return err
		}
	}
	return s.conn.Flush()
}

// resultWriter gathers results and writes them in pieces.
type resultWriter struct {
	stream *pushStream
	buf    []byte
	failed bool // the caller is gone, or does not read
}

// next returns the next item once it is done. It flushes before it waits.
// open is false after the last item.
func (w *resultWriter) next() (item streamItem, open bool) {
	select {
	case item, open = <-w.stream.items:
	default:
		w.flush()
		item, open = <-w.stream.items
	}
	if !open {
		return item, false
	}
	select {
	case <-item.done:
	default:
		w.flush()
		<-item.done
	}
	return item, true
}

// flush writes what was gathered, piece by piece.
func (w *resultWriter) flush() {
	for rest := w.buf; len(rest) > 0 && !w.failed; {
		piece := rest[:min(len(rest), streamFlush)]
		rest = rest[len(piece):]
		if err := w.stream.write(piece); err != nil {
			w.failed = true
			w.stream.stopReading(errStreamStall)
		}
	}
	if cap(w.buf) > 2*streamFlush {
		w.buf = nil // one large result must not cost memory for ever
	}
	w.buf = w.buf[:0]
}
