package rpc

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"imgo/envelope"
)

const (
	// maxCarried bounds the calls of one stream that are under way: more are
	// not read, so that who makes them waits.
	maxCarried = 8192
	// idleCarriers is how many goroutines stay for the next call, with the
	// stacks that they have grown.
	idleCarriers = 32
)

// generationOf is the key of the generation that a call of a stream is of.
type generationOf struct{}

// carriers run the calls of all streams.
type carriers struct {
	next chan func()
	idle atomic.Int32
	once sync.Once
	stop chan struct{}
	wg   sync.WaitGroup // of the goroutines, and of those of the streams
}

func newCarriers() *carriers {
	return &carriers{next: make(chan func()), stop: make(chan struct{})}
}

// run has a call made, soon, and does not wait for it.
func (c *carriers) run(call func()) {
	select {
	case c.next <- call:
	default:
		c.wg.Go(func() { c.work(call) })
	}
}

func (c *carriers) work(call func()) {
	for {
		call()
		call = nil //nolint:wastedassign // it is not to be held while there is nothing to do
		if c.idle.Add(1) > idleCarriers {
			c.idle.Add(-1)
			return
		}
		select {
		case call = <-c.next:
			c.idle.Add(-1)
		case <-c.stop:
			return
		}
	}
}

// end waits for everyone, when no stream is left.
func (c *carriers) end() {
	c.once.Do(func() { close(c.stop) })
	c.wg.Wait()
}

// callsDesc describes the stream of calls.
func (s *Server) callsDesc() *grpc.ServiceDesc {
	desc := callsStream
	desc.Handler = func(_ any, stream grpc.ServerStream) error {
		return s.carry(stream)
	}
	return &grpc.ServiceDesc{ServiceName: callsService, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc}}
}

// carried is a stream of calls of another node. Its answers are sent by
// whoever has one, all that are there in one message.
type carried struct {
	server *Server
	stream grpc.ServerStream
	room   chan struct{} // a place for each call under way

	mu      sync.Mutex
	under   map[uint64]context.CancelFunc // by the call's id
	count   int                           // of calls that are under way
	answers []*envelope.Answer
	sending bool
	ending  bool
	none    chan struct{} // closed when ending and nothing is under way
}

// carry serves a stream until the caller ends it, or the server stops: then
// what is under way is answered, and nothing more is taken.
func (s *Server) carry(stream grpc.ServerStream) error {
	c := &carried{
		server: s, stream: stream, room: make(chan struct{}, maxCarried),
		under: make(map[uint64]context.CancelFunc), none: make(chan struct{}),
	}
	ended := make(chan struct{})
	s.carriers.wg.Go(func() {
		defer close(ended)
		for {
			calls := new(envelope.Calls)
			if stream.RecvMsg(calls) != nil {
				return
			}
			for _, call := range calls.Calls {
				c.take(call)
			}
		}
	})
	select {
	case <-ended:
	case <-s.stopping:
	}
	c.end()
	return nil
}

// take begins a call, or ends one whose caller has gone.
func (c *carried) take(call *envelope.Call) {
	ctx := c.stream.Context()
	if call.Gone {
		c.mu.Lock()
		cancel := c.under[call.Id]
		c.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return
	}
	select {
	case c.room <- struct{}{}:
	case <-ctx.Done():
		return
	}
	timeout := defaultTimeout
	if call.TimeoutUs > 0 {
		timeout = time.Duration(min(call.TimeoutUs, uint64(time.Hour.Microseconds()))) * time.Microsecond
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	c.mu.Lock()
	late := c.ending
	if !late {
		c.under[call.Id] = cancel
		c.count++
	}
	c.mu.Unlock()
	if late { // the end of the stream is the answer
		cancel()
		return
	}
	c.server.carriers.run(func() {
		a := c.server.handlers.carry(ctx, call)
		cancel()
		c.answer(a)
	})
}

// answer queues an answer and, unless somebody does, sends what is queued.
func (c *carried) answer(a *envelope.Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.under, a.Id)
	c.answers = append(c.answers, a)
	if c.sending {
		return
	}
	c.sending = true
	for len(c.answers) > 0 {
		if c.count > len(c.answers) { // who is about to answer as well may go with it
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		n, size := 0, 0
		for ; n < len(c.answers) && size < batchBytes; n++ {
			size += len(c.answers[n].Reply)
		}
		answers := &envelope.Answers{Answers: c.answers[:n:n]}
		c.answers = c.answers[n:]
		c.mu.Unlock()
		_ = c.stream.SendMsg(answers) // when it fails the stream is over, and so is receiving
		for range n {
			<-c.room
		}
		c.mu.Lock()
		c.count -= n
	}
	c.answers, c.sending = nil, false
	if c.ending && c.count == 0 {
		close(c.none)
	}
}

// end waits for the calls that are under way; the caller's end, or the
// server's patience, cancels them.
func (c *carried) end() {
	c.mu.Lock()
	c.ending = true
	busy := c.count > 0
	c.mu.Unlock()
	if busy {
		<-c.none
	}
}
