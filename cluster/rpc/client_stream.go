package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"imgo/envelope"
)

// All calls of one node to another go over one stream, which the caller opens.
const (
	streamService = "imgo.rpc.v2.Calls"
	streamName    = "Exchange"
)

func streamDesc() grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: streamName, ServerStreams: true, ClientStreams: true}
}

// errStreamEnded is the error of calls that have no reply when their stream ends.
var errStreamEnded = errors.New("the node ended the stream of calls")

// clientStream is the calling half of a stream, from its first call until it
// breaks or its connection is closed. A slow call delays no other. Safe for
// concurrent use.
type clientStream struct {
	addr       string // of the called node
	maxMessage int    // of one reply, in bytes
	sender     sender

	mu    sync.Mutex
	last  uint64                 // number of the newest call
	calls map[uint64]*clientCall // that wait for a reply
	err   error                  // why the stream has ended. It is nil if it has not ended
}

// clientCall is one call. reply and err may be read once done is closed.
type clientCall struct {
	method  string
	request outgoing
	done    chan struct{}
	reply   []byte
	err     error
}

func newClientStream(addr string, maxMessage int) *clientStream {
	return &clientStream{addr: addr, maxMessage: maxMessage, sender: newSender(nil), calls: make(map[uint64]*clientCall)}
}

func newClientCall(method string, generation uint16, data []byte) *clientCall {
	c := &clientCall{method: method, done: make(chan struct{})}
	c.request.part.Method, c.request.part.Generation, c.request.part.Data = method, uint32(generation), data
	return c
}

// run opens the stream over conn and carries calls until it breaks or conn is
// closed. The caller must then call end with the error.
func (s *clientStream) run(conn *grpc.ClientConn) error {
	var sending sync.WaitGroup
	defer sending.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	desc := streamDesc()
	stream, err := conn.NewStream(ctx, &desc, "/"+streamService+"/"+streamName)
	if err != nil {
		return err
	}
	sending.Go(func() { s.sender.run(stream.SendMsg, ctx.Done()) })
	for {
		parts := new(envelope.CallParts)
		if err := stream.RecvMsg(parts); err != nil {
			return err
		}
		s.receive(parts)
	}
}

// end fails all calls that wait for a reply, and all later ones, because of err.
func (s *clientStream) end(err error) {
	if errors.Is(err, io.EOF) {
		err = errStreamEnded
	} else if st, ok := status.FromError(err); ok {
		err = errors.New(st.Message())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	for _, c := range s.calls {
		c.err = callFailed(s.addr, c.method, err)
		close(c.done)
	}
	s.calls = nil
}

// call makes one call and returns its reply. ctx must have a deadline.
func (s *clientStream) call(ctx context.Context, c *clientCall) ([]byte, error) {
	err := ctx.Err()
	if err == nil {
		err = s.begin(ctx, c)
	}
	if err != nil {
		return nil, callFailed(s.addr, c.method, err)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if s.abandon(c) {
			return nil, callFailed(s.addr, c.method, ctx.Err())
		}
		<-c.done // the reply came at this moment
	}
	return c.reply, c.err
}

// begin queues a call. It returns an error if the stream has ended.
func (s *clientStream) begin(ctx context.Context, c *clientCall) error {
	deadline, _ := ctx.Deadline()
	c.request.part.TimeoutUs = uint64(max(time.Until(deadline).Microseconds(), 1))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.last++
	c.request.part.Call = s.last
	s.calls[s.last] = c
	s.sender.enqueue(&c.request)
	return nil
}

// abandon gives a call up and tells the called node, if that knows of the call. It
// reports false if the call has its result already.
func (s *clientStream) abandon(c *clientCall) bool {
	call := c.request.part.Call
	s.mu.Lock()
	_, waiting := s.calls[call]
	delete(s.calls, call)
	s.mu.Unlock()
	if waiting && s.sender.drop(&c.request) {
		s.sender.enqueue(&outgoing{part: envelope.CallPart{Call: call, Cancel: true}})
	}
	return waiting
}

// receive gives replies to the calls that wait for them.
func (s *clientStream) receive(parts *envelope.CallParts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range parts.Parts {
		c := s.calls[p.Call]
		if c == nil {
			continue // abandoned, or already failed
		}
		switch {
		case p.Failure != nil:
			c.err = newCallError(p.Failure)
		case tooLarge(c.reply, p, s.maxMessage):
			c.err = errTooLarge(fmt.Sprintf("the reply is larger than %d bytes", s.maxMessage))
		default:
			c.reply = joinParts(c.reply, p)
		}
		if !p.More || c.err != nil {
			delete(s.calls, p.Call)
			close(c.done)
		}
	}
}
