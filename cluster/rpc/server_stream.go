package rpc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"imgo/envelope"
)

const (
	// maxCalls bounds the calls of one stream that are under way. More are not
	// read, so that their callers wait.
	maxCalls = 8192
	// maxTimeout bounds the time of a call, whatever its caller asks for.
	maxTimeout = time.Hour
)

// serverStream is the called half of a stream. Every call runs on a goroutine of
// its own.
type serverStream struct {
	server *Server
	ctx    context.Context // ends with the stream
	sender sender
	slots  chan struct{} // holds one value for each call under way
	// partial has the requests of which only some parts have arrived. Only the
	// receiving goroutine uses it.
	partial map[uint64]*envelope.CallPart

	mu       sync.Mutex
	cancels  map[uint64]context.CancelFunc // of the calls that run
	stopping bool
	underWay sync.WaitGroup // calls that began and whose reply was not sent yet
}

// serveStream serves a stream until the caller ends it or the server stops. Then
// the calls under way are answered, and no others begin.
func (s *Server) serveStream(stream grpc.ServerStream) error {
	c := &serverStream{
		server: s, ctx: stream.Context(), slots: make(chan struct{}, maxCalls),
		partial: make(map[uint64]*envelope.CallPart), cancels: make(map[uint64]context.CancelFunc),
	}
	c.sender = newSender(c.sent)
	ended, answered := make(chan struct{}), make(chan struct{})
	s.streams.Go(func() {
		defer close(ended)
		for {
			parts := new(envelope.CallParts)
			if stream.RecvMsg(parts) != nil {
				return
			}
			for _, p := range parts.Parts {
				c.receive(p)
			}
		}
	})
	var sending sync.WaitGroup
	sending.Go(func() { c.sender.run(stream.SendMsg, answered) })
	select {
	case <-ended:
	case <-s.stopping:
	}
	c.stop()
	close(answered)
	sending.Wait()
	return nil
}

// stop lets no call begin any more, and waits for the replies of those under way.
func (c *serverStream) stop() {
	c.mu.Lock()
	c.stopping = true
	c.mu.Unlock()
	c.underWay.Wait()
}

// receive takes one part of a request, or a cancellation.
func (c *serverStream) receive(p *envelope.CallPart) {
	if p.Cancel {
		delete(c.partial, p.Call)
		c.mu.Lock()
		cancel := c.cancels[p.Call]
		c.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return
	}
	request, joined := c.partial[p.Call], []byte(nil)
	switch {
	case request != nil:
		joined = request.Data
	case p.Method == "":
		return // the rest of a request that was refused
	default:
		request = p
	}
	refused := tooLarge(joined, p, c.server.maxMessage)
	if !refused {
		request.Data = joinParts(joined, p)
		if p.More {
			c.partial[p.Call] = request
			return
		}
	}
	delete(c.partial, p.Call)
	c.begin(request, refused)
}

// begin runs a call on a goroutine of its own. It waits while maxCalls are under
// way.
func (c *serverStream) begin(request *envelope.CallPart, refused bool) {
	select {
	case c.slots <- struct{}{}:
	case <-c.ctx.Done():
		return
	}
	timeout := defaultTimeout
	if request.TimeoutUs > 0 {
		timeout = time.Duration(min(request.TimeoutUs, uint64(maxTimeout.Microseconds()))) * time.Microsecond
	}
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	c.mu.Lock()
	stopping := c.stopping
	if !stopping {
		c.underWay.Add(1)
		c.cancels[request.Call] = cancel
	}
	c.mu.Unlock()
	switch {
	case stopping: // the end of the stream is the reply
		cancel()
	case refused:
		c.answer(request.Call, cancel, nil, errTooLarge(fmt.Sprintf("the request is larger than %d bytes", c.server.maxMessage)))
	default:
		go func() {
			reply, err := c.server.handle(ctx, request)
			c.answer(request.Call, cancel, reply, err)
		}()
	}
}

// answer queues the reply of a call that has ended.
func (c *serverStream) answer(call uint64, cancel context.CancelFunc, reply []byte, err error) {
	cancel()
	c.mu.Lock()
	delete(c.cancels, call)
	c.mu.Unlock()
	o := &outgoing{part: envelope.CallPart{Call: call, Data: reply}}
	if err != nil {
		o.part.Data, o.part.Failure = nil, newFailure(err)
	}
	c.sender.enqueue(o)
}

// sent frees the slots of calls whose replies were sent.
func (c *serverStream) sent(finished int) {
	for range finished {
		<-c.slots
		c.underWay.Done()
	}
}
