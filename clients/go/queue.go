package imgoclient

import "context"

// queue hands messages to OnMessage, one at a time and in order, over all the
// connections of one Run: what was received before a connection was lost is
// handled before what the next one brings.
type queue struct {
	client   *Client
	messages chan Message
	stopped  chan struct{} // closed when work has returned
}

func newQueue(c *Client) *queue {
	return &queue{client: c, messages: make(chan Message, c.cfg.Queue), stopped: make(chan struct{})}
}

// work handles messages until ctx is done (what waits is then let go of, and
// comes again) or the queue is closed (what waits is handled first).
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

// put waits for room; it gives up when the session has failed or nobody
// handles messages any more.
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

// wait returns when OnMessage is not and will not be called any more.
func (q *queue) wait() { <-q.stopped }

// drop lets go of what waits, until the queue is closed: no put may come in
// behind it whose message nobody lets go of.
func (q *queue) drop() {
	for m := range q.messages {
		if m.Kept() {
			q.client.inbox.done(m.ID, false)
		}
	}
}
