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
	// maxPartial bounds the memory of the requests of one stream of which only some
	// parts have arrived, in requests of the largest size. More are refused.
	maxPartial = 4
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
	// partial has the requests of which only some parts have arrived, and
	// partialBytes their memory. Only the receiving goroutine uses them.
	partial      map[uint64]*envelope.CallPart
	partialBytes int

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
	request, joined := c.partial[p.Call], []byte(nil)
	if request != nil {
		joined = request.Data
		c.partialBytes -= cap(joined)
		delete(c.partial, p.Call)
	}
	switch {
	case p.Cancel:
		c.mu.Lock()
		cancel := c.cancels[p.Call]
		c.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return
	case request == nil && p.Method == "":
		return // the rest of a request that was refused
	case request == nil:
		request = p
	}
	limit := c.server.maxMessage
	switch {
	case tooLarge(joined, p, limit):
		c.begin(request, errTooLarge(fmt.Sprintf("the request is larger than %d bytes", limit)))
	case p.More && len(joined)+len(p.Data) > cap(joined) && c.partialBytes > maxPartial*limit:
		c.begin(request, envelope.Errorf(envelope.CodeUnavailable, "this node has as many large requests as it can hold; try again"))
	default:
		request.Data = joinParts(joined, p)
		if p.More {
			c.partial[p.Call] = request
			c.partialBytes += cap(request.Data)
			return
		}
		c.begin(request, nil)
	}
}

// begin runs a call on a goroutine of its own, or refuses it with an error. It waits
// while maxCalls are under way.
func (c *serverStream) begin(request *envelope.CallPart, refused error) {
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
	case refused != nil:
		c.answer(request.Call, cancel, nil, refused)
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
