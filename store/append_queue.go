package store

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	"imgo/envelope"
	"imgo/internal/wait"
)

// request is one call's entries on their way through the queue.
type request struct {
	entries []envelope.Entry
	one     [1]envelope.Entry // the memory of entries where there is one
	cost    int64             // of the queue's capacity, in bytes
	left    int               // entries that are not answered yet; only the committer uses it
	err     error
	done    chan struct{} // receives once when the request was answered
}

// appendQueue holds the appends that wait for the next commit. It is bounded in bytes.
// It is safe for concurrent use.
type appendQueue struct {
	space    logSpace
	capacity int64
	free     *semaphore.Weighted // bytes that are not in use
	filled   wait.Signal         // set when the queue may have requests
	requests sync.Pool           // of *request that are not in use

	mu     sync.Mutex
	queue  []*request
	closed error // why appends are refused; nil: they are not
}

func (q *appendQueue) init(space logSpace, capacity int64) {
	q.space, q.capacity = space, capacity
	q.free = semaphore.NewWeighted(capacity)
	q.filled = wait.NewSignal()
	q.requests.New = func() any { return &request{done: make(chan struct{}, 1)} }
}

// newRequest returns an empty request.
func (q *appendQueue) newRequest() *request { return q.requests.Get().(*request) }

// recycle takes back a request that was answered. A request that was not answered must
// not come back: the committer may still use it.
func (q *appendQueue) recycle(r *request) {
	r.entries, r.one[0], r.err = nil, envelope.Entry{}, nil
	q.requests.Put(r)
}

// enqueue waits for room in the queue, within ctx, and queues a request. The request is
// answered by finish.
func (q *appendQueue) enqueue(ctx context.Context, r *request) error {
	r.cost, r.left = 0, len(r.entries)
	for i := range r.entries {
		r.cost += int64(len(r.entries[i].Value)) + entryOverhead
	}
	// A request that is larger than the queue has the queue for itself.
	r.cost = min(r.cost, q.capacity)
	if err := q.free.Acquire(ctx, r.cost); err != nil {
		return fmt.Errorf("append to the %s: wait for room in its queue: %w", q.space, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		q.free.Release(r.cost)
		return q.closed
	}
	q.queue = append(q.queue, r)
	q.filled.Set()
	return nil
}

// dequeueAll empties the queue. The queue goes on in the memory of spare.
func (q *appendQueue) dequeueAll(spare []*request) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.queue
	q.queue = spare[:0]
	return all
}

// length returns the number of queued requests.
func (q *appendQueue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queue)
}

// close refuses further requests with an error. Only the first call counts.
func (q *appendQueue) close(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed == nil {
		q.closed = why
	}
}

// fail answers all queued requests with an error.
func (q *appendQueue) fail(err error) {
	for _, r := range q.dequeueAll(nil) {
		r.err = err
		q.finish(r)
	}
}

// finish answers a request. Its caller may use it again from then on.
func (q *appendQueue) finish(r *request) {
	q.free.Release(r.cost)
	r.done <- struct{}{}
}
