package comet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/internal/upstream"
	"imgo/internal/wait"
	"imgo/protocol"
	"imgo/transport"
)

// This file carries the messages of clients for the backend to logic. The messages of a session are carried one after
// another, by a worker. The reading goroutine puts them into the session's queue and goes on. It waits only while that
// queue is full: then the client is read more slowly.
//
// A client of version 2 gets the answer of logic and repeats by itself what was not taken. It is told to do so, too, if the
// queues of all sessions are full together. A client of an older protocol has got its answer from comet. So comet repeats
// such a message, until logic takes or refuses it. While the queues are full, the client is read more slowly.

const (
	// maxUpstream and maxUpstreamBytes bound the queue of a session. One message always fits.
	maxUpstream      = 32
	maxUpstreamBytes = 128 << 10
	// upstreamOverhead is what a message costs beside its body, in bytes.
	upstreamOverhead = 512
	// upstreamRetryMS is when a client may repeat a message that could not be decided about.
	upstreamRetryMS = 1000
	// spaceStep is how often a reading goroutine that waits for space looks whether its session is over.
	spaceStep = 50 * time.Millisecond
	// minUpstreamPause and maxUpstreamPause bound the pause before a message of an old client is repeated. All messages of
	// a session are given up lateUpstream after it has ended.
	minUpstreamPause = 50 * time.Millisecond
	maxUpstreamPause = 5 * time.Second
	lateUpstream     = 30 * time.Second
	// stopUpstream is how long a comet that stops waits for the messages that it has.
	stopUpstream = 2 * time.Second
)

// The outcomes of messages in the metrics.
const (
	upstreamTaken   = "taken"
	upstreamRefused = "refused"
	upstreamFailed  = "failed" // a client of version 2 was told to try again
	upstreamLost    = "lost"   // a message of an old client was given up
)

// upstreamTable is what all sessions share. It is safe for concurrent use.
type upstreamTable struct {
	rules  upstream.Table
	active sync.WaitGroup // the queues that a worker carries
}

// stop waits until all messages were carried, but not for long. No session reads any more.
func (t *upstreamTable) stop() {
	done := make(chan struct{})
	go func() {
		t.active.Wait()
		close(done)
	}()
	timer := time.NewTimer(stopUpstream)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// upstreamMessage is a message of a client that was not carried yet.
type upstreamMessage struct {
	packet transport.Packet
	rule   *upstream.Rule
	size   int64
}

// upstreamQueue has the messages of a session, in their order. The lock of the session's outbox guards it. While it
// has any, a worker carries the first one.
type upstreamQueue struct {
	*session
	queue []*upstreamMessage
	bytes int64
	space wait.Signal // a message has left
	// until is when the messages are given up. It is zero while the session is read.
	until time.Time
}

// upstreamMessage returns the message in a packet of a client. It returns nil if no rule takes it, if the packet has none,
// or if it is not to be handled.
func (r reader) upstreamMessage(p transport.Packet, handle bool) *upstreamMessage {
	if !handle || r.speaks == protocolImgo && p.Op != protocol.OpSend {
		return nil
	}
	_, rule := r.comet.upstream.rules.Find(p.Op)
	if rule == nil {
		return nil
	}
	return &upstreamMessage{packet: p, rule: rule, size: int64(len(p.Body)) + upstreamOverhead}
}

// upstreamFull reports whether there is no space now for a message. For nil there is always space.
func (r reader) upstreamFull(m *upstreamMessage) bool {
	if m == nil {
		return false
	}
	if r.speaks != protocolV2 && r.comet.upstreamFull(m) {
		return true
	}
	r.out.Lock()
	defer r.out.Unlock()
	return r.upQueue != nil && r.upQueue.fullForLocked(m)
}

// upstreamFull reports whether the messages of all sessions leave no space for another one.
func (c *Comet) upstreamFull(m *upstreamMessage) bool {
	bytes := c.metrics.upstreamBytes.Load()
	return bytes > 0 && bytes+m.size > int64(c.cfg.UpstreamBytes)
}

// awaitSpace waits until there is space for a message. It reports false if the session ended before.
func (r reader) awaitSpace(m *upstreamMessage) bool {
	for r.upstreamFull(m) {
		r.out.Lock()
		over := r.state > stateLive
		var space wait.Signal
		if r.upQueue != nil {
			space = r.upQueue.space
		}
		r.out.Unlock()
		if over {
			return false
		}
		timer := time.NewTimer(spaceStep)
		select {
		case <-space: // nil: never
		case <-timer.C:
		}
		timer.Stop()
	}
	return true
}

// enqueueUpstream puts a message, if it is not nil, into the queue, and has a worker carry it if it is the only one. It
// tells a client of version 2 to repeat it later if there is no space. The poller's goroutine calls it, so it does not wait
// for space: the reader has seen that there is some. Readers that see the last space at the same time exceed the bound by
// one message each.
func (r reader) enqueueUpstream(m *upstreamMessage) {
	if m == nil {
		return
	}
	if r.speaks == protocolV2 && r.comet.upstreamFull(m) {
		r.comet.metrics.upstream.WithLabelValues(upstreamFailed).Inc()
		r.answerUpstream(m.packet, nil, envelope.ErrUnavailable)
		return
	}
	if r.form.JSON() {
		m.packet.Body = append([]byte(nil), m.packet.Body...) // it is a part of the frame
	}
	c := r.comet
	c.metrics.upstreamBytes.Add(m.size)
	r.out.Lock()
	r.ownExtrasLocked()
	if r.upQueue == nil {
		r.upQueue = &upstreamQueue{session: r.session, space: wait.NewSignal()}
	}
	q := r.upQueue
	first := q.addLocked(m)
	r.out.Unlock()
	if first {
		c.upstream.active.Add(1)
		c.workers.Run(q)
	}
}

// fullForLocked reports whether the queue has no space for a message.
func (b *upstreamQueue) fullForLocked(m *upstreamMessage) bool {
	return len(b.queue) > 0 && (len(b.queue) >= maxUpstream || b.bytes+m.size > maxUpstreamBytes)
}

// addLocked adds a message. It reports whether it is the only one.
func (b *upstreamQueue) addLocked(m *upstreamMessage) bool {
	b.queue = append(b.queue, m)
	b.bytes += m.size
	return len(b.queue) == 1
}

// Run carries the messages until there are none.
func (b *upstreamQueue) Run() {
	defer b.comet.upstream.active.Done()
	for m := b.first(); m != nil; m = b.next() {
		b.carry(m)
	}
}

// first returns the oldest message.
func (b *upstreamQueue) first() *upstreamMessage {
	b.out.Lock()
	defer b.out.Unlock()
	return b.queue[0]
}

// next drops the oldest message, which was carried, and returns the one after it, or nil if there is none.
func (b *upstreamQueue) next() *upstreamMessage {
	b.out.Lock()
	defer b.out.Unlock()
	size := b.queue[0].size
	b.queue[0] = nil
	b.queue = b.queue[1:]
	b.bytes -= size
	b.comet.metrics.upstreamBytes.Add(-size)
	b.space.Set()
	if len(b.queue) == 0 {
		b.queue = nil
		return nil
	}
	return b.queue[0]
}

// carry takes a message to logic and answers the client.
func (b *upstreamQueue) carry(m *upstreamMessage) {
	var reply *envelope.UpstreamReply
	var err error = envelope.ErrUnavailable
	switch {
	case b.late():
	case b.speaks == protocolV2:
		reply, err = b.call(m, b.upstreamRequest(m))
	default:
		reply, err = b.repeat(m, b.upstreamRequest(m))
	}
	outcome := upstreamTaken
	switch {
	case err != nil && b.speaks != protocolV2:
		outcome = upstreamLost
		b.comet.log.Debug().Err(err).Str("user", b.user).Int32("op", m.packet.Op).
			Msg("a message of an old client for the backend is lost: logic did not take it in time")
	case err != nil:
		outcome = upstreamFailed
	case reply.GetCode() != "":
		outcome = upstreamRefused
	}
	b.comet.metrics.upstream.WithLabelValues(outcome).Inc()
	if b.speaks == protocolV2 {
		reader{b.session}.answerUpstream(m.packet, reply, err)
	}
}

func (b *upstreamQueue) upstreamRequest(m *upstreamMessage) *envelope.UpstreamRequest {
	b.out.Lock()
	defer b.out.Unlock()
	request := &envelope.UpstreamRequest{
		Id: envelope.NewRecordID(), Session: b.describeLocked(), Op: m.packet.Op, Body: m.packet.Body,
	}
	if b.speaks == protocolV2 {
		request.ClientId = m.packet.ID
	}
	return request
}

// call asks logic once.
func (b *upstreamQueue) call(m *upstreamMessage, request *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	timeout := b.comet.cfg.CallTimeout
	if m.rule.To == upstream.ToCall {
		// A call may wait for its turn for as long as it may take, and there may be a logic that hangs, see roles/remote.go.
		timeout += 4 * m.rule.Timeout
	}
	ctx, cancel := context.WithTimeout(b.comet.calls, timeout)
	defer cancel()
	reply, err := b.comet.logic.Upstream(ctx, request)
	if err != nil {
		b.comet.metrics.callErrors.WithLabelValues("upstream").Inc()
	}
	return reply, err
}

// repeat asks logic until it has taken or refused the message, until the queue's messages are given up, or until comet
// stops.
func (b *upstreamQueue) repeat(m *upstreamMessage, request *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	pauses := wait.Backoff{Min: minUpstreamPause, Max: maxUpstreamPause}
	for {
		reply, err := b.call(m, request)
		if err == nil && reply.GetRetryMs() == 0 {
			return reply, nil
		}
		if pauses.Sleep(b.comet.calls) != nil || b.late() {
			if err == nil {
				err = fmt.Errorf("%s: %s", reply.GetCode(), reply.GetReason())
			}
			return reply, err
		}
	}
}

// endLocked bounds the time for the messages of a session that has ended.
func (b *upstreamQueue) endLocked() {
	if b != nil {
		b.until = time.Now().Add(lateUpstream)
	}
}

// late reports whether the messages are given up.
func (b *upstreamQueue) late() bool {
	b.out.Lock()
	defer b.out.Unlock()
	return !b.until.IsZero() && time.Now().After(b.until)
}

// answerUpstream tells a client of version 2 what became of its message.
func (r reader) answerUpstream(p transport.Packet, reply *envelope.UpstreamReply, err error) {
	switch {
	case err != nil:
		code, reason := refusalText(err)
		retry := uint32(0)
		if code == envelope.CodeUnavailable || code == envelope.CodeRateLimited {
			retry = upstreamRetryMS
		}
		r.refuseAs(p, string(code), reason, retry)
	case reply.GetCode() != "":
		r.refuseAs(p, reply.GetCode(), reply.GetReason(), reply.GetRetryMs())
	default:
		r.reply(p, p.Op, reply.GetBody())
	}
}
