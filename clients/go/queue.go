package imgoclient

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// item is a message in the queue.
type item struct {
	Message
	// announced is closed when the application knows of the session that the message came with.
	announced <-chan struct{}
}

// queue passes messages to OnMessage, one at a time and in order. It lives for a whole Run.
// Messages of a lost connection are thus handled before those of the next one.
type queue struct {
	client *Client
	events *events
	items  chan item
	// open ends with Run's context or by close. No further message is handled then.
	open  context.Context
	close context.CancelFunc
	idle  chan struct{} // closed when no message is being handled any more
	// ctx is the handler's. It ends with abandon.
	ctx     context.Context
	abandon context.CancelFunc
}

func newQueue(ctx context.Context, c *Client, e *events) *queue {
	q := &queue{client: c, events: e, items: make(chan item, c.cfg.Queue), idle: make(chan struct{})}
	q.open, q.close = context.WithCancel(ctx)
	q.ctx, q.abandon = context.WithCancel(context.WithoutCancel(ctx))
	go q.work()
	return q
}

// work handles messages until the queue is closed.
func (q *queue) work() {
	defer close(q.idle)
	for {
		select {
		case <-q.open.Done():
			return
		case m := <-q.items:
			select {
			case <-m.announced:
				q.handle(m.Message)
			case <-q.open.Done():
				q.drop(m.Message)
			}
		}
	}
}

func (q *queue) handle(m Message) {
	select {
	case <-q.open.Done():
	case q.client.handling <- struct{}{}: // a handler of an earlier Run may still be at work
		defer func() { <-q.client.handling }()
	}
	if q.open.Err() != nil {
		q.drop(m)
		return
	}
	err := q.client.cfg.OnMessage(q.ctx, m)
	if m.Kept() {
		q.client.inbox.done(m.ID, err == nil)
	}
	if err != nil {
		q.client.report(q.events, &Error{Code: CodeHandler, Text: fmt.Sprintf("handle message %d", m.ID), Err: err})
	}
}

// drop leaves a message to the next session.
func (q *queue) drop(m Message) {
	if m.Kept() {
		q.client.inbox.done(m.ID, false)
	}
}

// put adds a message and waits while the queue is full. It drops the message if the session fails
// or the queue is closed.
func (q *queue) put(m item, s *session) {
	select {
	case q.items <- m:
		return
	default:
	}
	s.paused.Store(true)
	defer func() {
		s.activity.touch()
		s.paused.Store(false)
	}()
	select {
	case q.items <- m:
	case <-q.open.Done():
		q.drop(m.Message)
	case <-s.failed:
		q.drop(m.Message)
	}
}

var errHandlerLate = errors.New("the handler did not return within CloseTimeout")

// wait closes the queue and waits until OnMessage is not running, at most for limit. After that the context
// of the handler ends. It returns an error if the handler still runs.
func (q *queue) wait(limit time.Duration) error {
	q.close()
	defer q.abandon()
	sleep(context.Background(), limit, q.idle)
	select {
	case <-q.idle:
		return nil
	default:
		return errHandlerLate
	}
}

// empty drops the messages that wait. No session may add any more.
func (q *queue) empty() {
	for {
		select {
		case m := <-q.items:
			q.drop(m.Message)
		default:
			return
		}
	}
}
