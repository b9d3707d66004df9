package imgoclient

import "context"

// queue passes messages to OnMessage, one at a time and in order. It lives for a whole Run.
// Messages of a lost connection are thus handled before those of the next one.
type queue struct {
	client   *Client
	messages chan Message
	stopped  chan struct{} // closed when work stops calling OnMessage
}

func newQueue(c *Client) *queue {
	return &queue{client: c, messages: make(chan Message, c.cfg.Queue), stopped: make(chan struct{})}
}

// work handles messages until ctx is done or the queue is closed. At the end of ctx it drops the
// waiting messages, and the server sends them again. If the queue is closed, it handles the waiting
// messages first.
func (q *queue) work(ctx context.Context) {
	defer q.drop()
	defer close(q.stopped)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case m, ok := <-q.messages:
			if !ok {
				return
			}
			q.handle(ctx, m)
		}
	}
}

func (q *queue) handle(ctx context.Context, m Message) {
	err := q.client.cfg.OnMessage(ctx, m)
	if m.Kept() {
		q.client.inbox.done(m.ID, err == nil)
	}
}

// put adds a message and waits while the queue is full. It drops the message if the session fails
// or work has stopped.
func (q *queue) put(m Message, failed <-chan struct{}) {
	select {
	case q.messages <- m:
		return
	case <-q.stopped:
	case <-failed:
	}
	if m.Kept() {
		q.client.inbox.done(m.ID, false)
	}
}

// wait blocks until OnMessage is not running and will not be called again.
func (q *queue) wait() { <-q.stopped }

// drop drops messages until the queue is closed. A put that races with the end of work could
// otherwise leave its id taken forever.
func (q *queue) drop() {
	for m := range q.messages {
		if m.Kept() {
			q.client.inbox.done(m.ID, false)
		}
	}
}
