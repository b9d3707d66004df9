package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"imgo/envelope"
)

// Some calls are made once a client or a push. A gRPC call costs some 30 µs of
// either side, most of them for headers, a stream and its timer; so these calls
// go together over one stream to each node, as many in a message as wait. They
// are answered each by itself: one that takes long holds up no other.

const (
	// maxTogether bounds the request of a call that goes with others, in bytes:
	// a large one would hold the others up.
	maxTogether = 64 << 10
	// batchBytes is about how much one message of the stream carries, in bytes.
	batchBytes = 128 << 10
	// askAnew is how long a node that knows no such stream is not asked again
	// for one: it is of an older version, and is called singly.
	askAnew = time.Minute
)

// callsMethod is the stream.
const (
	callsService = "imgo.rpc.v1.Calls"
	callsMethod  = "/" + callsService + "/Together"
)

var callsStream = grpc.StreamDesc{StreamName: "Together", ServerStreams: true, ClientStreams: true}

// errSingly: the node is to be called singly.
var errSingly = errors.New("the node knows no calls that go together")

// together are the calls of a node that go together. There is a goroutine that
// sends and one that receives from the first call until the stream breaks, or
// the peer's connection is closed. Safe for concurrent use.
type together struct {
	peer *Peer
	wg   sync.WaitGroup // of the goroutines

	mu      sync.Mutex
	running bool
	singly  time.Time // until when the node is called singly
	last    uint64
	queue   []*envelope.Call   // to be sent; bounded by the callers, who wait
	waiting map[uint64]*waiter // by the call's id
	some    chan struct{}      // something is in queue
	closed  bool
}

// waiter is who waits for a call's answer, for which got has room.
type waiter struct {
	got  chan answer
	sent bool
}

// answer is what became of a call.
type answer struct {
	*envelope.Answer
	err error // there is no Answer
}

// call makes one call.
func (t *together) call(ctx context.Context, conn *grpc.ClientConn, method string, generation uint16, req, rep message) error {
	call := &envelope.Call{Method: method, Generation: uint32(generation), Request: make([]byte, req.SizeVT())}
	if _, err := req.MarshalToSizedBufferVT(call.Request); err != nil {
		return fmt.Errorf("marshal %T: %w", req, err)
	}
	if err := ctx.Err(); err != nil {
		return fromStatus(ctx, t.peer.addr, method, status.FromContextError(err).Err())
	}
	if deadline, ok := ctx.Deadline(); ok {
		call.TimeoutUs = uint64(max(time.Until(deadline).Microseconds(), 1))
	}
	w := &waiter{got: make(chan answer, 1)}
	if !t.add(conn, call, w) {
		return errSingly
	}
	select {
	case a := <-w.got:
		return t.settle(ctx, method, a, rep)
	case <-ctx.Done():
	}
	if !t.forget(call, w) {
		return t.settle(ctx, method, <-w.got, rep) // it came in this moment
	}
	return fromStatus(ctx, t.peer.addr, method, status.FromContextError(ctx.Err()).Err())
}

// settle makes a call's result of its answer.
func (t *together) settle(ctx context.Context, method string, a answer, rep message) error {
	switch {
	case a.err != nil && errors.Is(a.err, errSingly):
		return a.err
	case a.err != nil:
		return fromStatus(ctx, t.peer.addr, method, a.err)
	case a.Status != uint32(codes.OK):
		st := status.New(codes.Code(a.Status), a.Text)
		if a.Failure != nil {
			return answered(st, a.Failure)
		}
		return fromStatus(ctx, t.peer.addr, method, st.Err())
	}
	if err := rep.UnmarshalVT(a.Reply); err != nil {
		return fmt.Errorf("unmarshal %T: %w", rep, err)
	}
	return nil
}

// add queues a call; false: the node is to be called singly.
func (t *together) add(conn *grpc.ClientConn, call *envelope.Call, w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false // gRPC says why
	}
	if !t.singly.IsZero() {
		if time.Now().Before(t.singly) {
			return false
		}
		t.singly = time.Time{}
	}
	t.last++
	call.Id = t.last
	if !t.running {
		t.running = true
		t.waiting, t.some = make(map[uint64]*waiter), make(chan struct{}, 1)
		t.wg.Go(func() { t.run(conn, t.some) })
	}
	t.waiting[call.Id] = w
	t.queue = append(t.queue, call)
	wake(t.some)
	return true
}

// wake wakes the one who waits on c, or who will.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// end waits for the goroutines, once the connection is closed.
func (t *together) end() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}

// forget gives a call up, so that the node does no work for nobody; false: its
// answer is there.
func (t *together) forget(call *envelope.Call, w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.waiting[call.Id]; !ok {
		return false
	}
	delete(t.waiting, call.Id)
	if !w.sent {
		call.Request = nil // what is left of it in queue is not sent
		return true
	}
	t.queue = append(t.queue, &envelope.Call{Id: call.Id, Gone: true})
	wake(t.some)
	return true
}

// take is the next message; nil: nothing waits. Of calls that were given up
// before they were sent nothing is sent.
func (t *together) take() *envelope.Calls {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls := make([]*envelope.Call, 0, len(t.queue))
	size, n := 0, 0
	for n < len(t.queue) && size < batchBytes {
		c := t.queue[n]
		t.queue[n] = nil
		n++
		w := t.waiting[c.Id]
		if w != nil {
			w.sent = true
		}
		if w != nil || c.Gone {
			calls = append(calls, c)
			size += len(c.Request)
		}
	}
	t.queue = t.queue[n:]
	if len(t.queue) == 0 {
		t.queue = nil
	} else {
		wake(t.some)
	}
	if len(calls) == 0 {
		return nil
	}
	return &envelope.Calls{Calls: calls}
}

// run is a stream's life. The end of conn ends it.
func (t *together) run(conn *grpc.ClientConn, some <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := conn.NewStream(ctx, &callsStream, callsMethod)
	if err != nil {
		t.broke(err)
		return
	}
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			select {
			case <-some:
			case <-ctx.Done():
				return
			}
			runtime.Gosched() // who is about to call as well may go with it
			if calls := t.take(); calls != nil && stream.SendMsg(calls) != nil {
				return // receiving says why
			}
		}
	})
	for {
		answers := new(envelope.Answers)
		if err = stream.RecvMsg(answers); err != nil {
			break
		}
		t.deliver(answers)
	}
	cancel()
	sender.Wait()
	t.broke(err)
}

func (t *together) deliver(answers *envelope.Answers) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range answers.Answers {
		if w, ok := t.waiting[a.Id]; ok {
			delete(t.waiting, a.Id)
			w.got <- answer{Answer: a}
		}
	}
}

// broke ends the stream: the next call begins another one.
func (t *together) broke(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if st, ok := status.FromError(err); ok && st.Code() == codes.Unimplemented {
		t.singly = time.Now().Add(askAnew)
		err = errSingly
	} else if errors.Is(err, io.EOF) || ok && st.Code() == codes.Canceled {
		err = status.Error(codes.Unavailable, "the node ended the stream of calls")
	}
	for _, w := range t.waiting {
		w.got <- answer{err: err}
	}
	t.running, t.waiting, t.queue = false, nil, nil
}

// goesTogether says whether a request may wait for others, and be waited for.
func goesTogether(req message) bool { return req.SizeVT() <= maxTogether }

// handlers are the server's halves of methods, by their gRPC names.
type handlers map[string]grpc.MethodHandler

func handlersOf(services []*grpc.ServiceDesc) handlers {
	all := make(handlers)
	for _, s := range services {
		for _, m := range s.Methods {
			all["/"+s.ServiceName+"/"+m.MethodName] = m.Handler
		}
	}
	return all
}

// carry makes one call of a stream.
func (h handlers) carry(ctx context.Context, call *envelope.Call) *envelope.Answer {
	a := &envelope.Answer{Id: call.Id}
	handler := h[call.Method]
	if handler == nil {
		a.Status, a.Text = uint32(codes.Unimplemented), "unknown method "+strings.ToValidUTF8(call.Method, "�")
		return a
	}
	if call.Generation > 0 {
		ctx = context.WithValue(ctx, generationOf{}, call.Generation)
	}
	rep, err := handler(nil, ctx, func(into any) error {
		m, ok := into.(message)
		if !ok {
			return fmt.Errorf("unmarshal %T: not a message of envelope", into)
		}
		return m.UnmarshalVT(call.Request)
	}, nil)
	if err == nil {
		m, ok := rep.(message)
		if !ok {
			err = fmt.Errorf("marshal %T: not a message of envelope", rep)
		} else {
			a.Reply = make([]byte, m.SizeVT())
			_, err = m.MarshalToSizedBufferVT(a.Reply)
		}
	}
	if err != nil {
		st, _ := status.FromError(err) // another error's is Unknown
		a.Reply, a.Status, a.Text = nil, uint32(st.Code()), valid(st.Message())
		for _, d := range st.Details() {
			if f, ok := d.(*envelope.Failure); ok {
				a.Failure = f
			}
		}
	}
	return a
}
