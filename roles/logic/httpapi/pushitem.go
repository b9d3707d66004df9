package httpapi

import (
	"context"
	"fmt"
	"runtime/debug"
	"strconv"

	"imgo/internal/lazyctx"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// pushItem is one push of a batch or of a stream, and its outcome.
type pushItem struct {
	push *pushRequest // nil: it could not be read
	// result and err are the outcome. They are set before done is closed.
	result *logic.PushResult
	err    error
	done   chan struct{}
	// after has the earlier items that must be done before this one begins.
	after []*pushItem
	// follower is the last item that has this one in after.
	follower *pushItem
}

func newPushItem(raw []byte, maxUsers int) *pushItem {
	item := &pushItem{done: make(chan struct{})}
	item.push, item.err = parsePush(raw, maxUsers)
	return item
}

// wait waits for the items that have to be done before this one. Every push
// ends within Config.Timeout, and so does the wait for it.
func (i *pushItem) wait() {
	for _, earlier := range i.after {
		<-earlier.done
	}
	i.after = nil
}

// run pushes the item and marks it done. A panic becomes the item's error,
// since net/http catches panics on its own goroutine only.
func (i *pushItem) run(ctx context.Context, service Pusher, key *caller) {
	defer close(i.done)
	defer func() {
		if v := recover(); v != nil {
			i.err = fmt.Errorf("the push panicked: %v\n%s", v, debug.Stack())
		}
	}()
	if i.err = ctx.Err(); i.err != nil {
		return
	}
	i.result, i.err = service.Push(ctx, i.push.command(key))
	if i.err != nil {
		i.err = i.push.blame(i.err)
	}
}

// runWithin runs an item with the bound of a single push.
func (h pushHandlers) runWithin(ctx context.Context, i *pushItem, key *caller) {
	ctx, cancel := lazyctx.Timeout(ctx, h.cfg.Timeout)
	defer cancel()
	i.run(ctx, h.service, key)
}

// appendItem appends an item's answer: that of a single push, or {"error"},
// with its status in front.
func (c *call) appendItem(b []byte, item *pushItem) []byte {
	if item.err == nil {
		return item.push.appendResult(b, item.result, `"status":202,`)
	}
	p := c.Report(item.err)
	return appendItemProblem(b, &p, "")
}

// appendItemProblem appends {"status","error"}, with more after the status.
func appendItemProblem(b []byte, p *httpcall.Problem, more string) []byte {
	b = append(b, `{"status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = append(b, more...)
	b = append(b, `,"error":`...)
	return append(appendProblem(b, p), '}')
}

// target is one user, session, room or everybody, as the receiver of pushes.
type target struct{ field, name string }

// pushOrder makes pushes to the same target run one after the other, so that a
// user, a session or a room gets its messages in order. It is not safe for
// concurrent use.
type pushOrder struct {
	last map[target]*pushItem
	// prune is the size of last from which on finished items are looked for.
	prune int
}

// minPrune is the size below which a pushOrder keeps finished items.
const minPrune = 1024

// add gives an item the earlier ones that it has to wait for.
func (o *pushOrder) add(item *pushItem) {
	if len(o.last) >= o.prune {
		o.forget()
	}
	p := item.push
	switch p.target {
	case "user":
		o.follow(item, target{"user", p.user})
	case "users":
		for _, user := range p.users {
			o.follow(item, target{"user", user})
		}
	case "keys":
		if p.keysOfUser {
			o.follow(item, target{"user", p.user})
		}
		for _, key := range p.keys {
			o.follow(item, target{"key", key})
		}
	default:
		o.follow(item, target{p.target, p.room})
	}
}

func (o *pushOrder) follow(item *pushItem, t target) {
	if earlier := o.last[t]; earlier != nil && earlier != item && earlier.follower != item {
		earlier.follower = item
		item.after = append(item.after, earlier)
	}
	o.last[t] = item
}

// forget drops finished items, which nobody needs to wait for.
func (o *pushOrder) forget() {
	if o.last == nil {
		o.last = make(map[target]*pushItem)
	}
	for t, item := range o.last {
		select {
		case <-item.done:
			delete(o.last, t)
		default:
		}
	}
	o.prune = max(minPrune, 2*len(o.last))
}
