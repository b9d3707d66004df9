package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"

	"imgo/envelope"
	"imgo/roles/logic"
)

// batchRequest is the body of POST /v1/push/batch when it is an object.
type batchRequest struct {
	pushes [][]byte
	max    int
}

func (b *batchRequest) field(d *decoder, name string) (err error) {
	if name != "pushes" {
		return errUnknownField
	}
	b.pushes, err = d.raws(b.max)
	return err
}

// parseBatch takes a batch apart into the bytes of its pushes, which are only
// known to be JSON: an array of them, or {"pushes":[…]}.
func parseBatch(data []byte, max int) ([][]byte, error) {
	d := newDecoder(data)
	b := &batchRequest{max: max}
	var err error
	if d.dec.PeekKind() == '[' {
		b.pushes, err = d.raws(max)
	} else {
		err = d.object(b)
	}
	if err != nil {
		return nil, err
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if len(b.pushes) == 0 {
		return nil, envelope.Invalid("pushes", "is missing or empty")
	}
	return b.pushes, nil
}

// raws reads an array of at most max values of any kind.
func (d *decoder) raws(max int) ([][]byte, error) {
	if err := d.open('[', "an array of pushes"); err != nil {
		return nil, err
	}
	list := [][]byte{}
	for d.dec.PeekKind() != ']' {
		d.name = fmt.Sprintf("pushes[%d]", len(list))
		if len(list) == max {
			return nil, envelope.Invalid("pushes", fmt.Sprintf("has more than %d entries", max))
		}
		value, err := d.raw()
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	return list, nil
}

// batchItem is one push of a batch and what became of it.
type batchItem struct {
	push   *pushRequest
	result *logic.PushResult
	err    error
	// after are the items that must have ended before this one begins.
	after []*batchItem
	done  chan struct{}
}

// pushBatch answers POST /v1/push/batch: every push stands for itself, and
// gets the status and the body that it would have got alone.
func (a *API) pushBatch(c *call) error {
	if c.r.Header.Get("Idempotency-Key") != "" {
		return envelope.Invalid("Idempotency-Key", "is not a header for a batch: give each push its own idempotency_key")
	}
	data, err := c.readBody()
	if err != nil {
		return err
	}
	raws, err := parseBatch(data, a.cfg.MaxBatch)
	if err != nil {
		return err
	}
	items := make([]*batchItem, len(raws))
	for i, raw := range raws {
		items[i] = &batchItem{done: make(chan struct{})}
		items[i].push, items[i].err = parsePush(raw, a.cfg.MaxUsers)
	}
	order(items)
	a.run(c.ctx, c.key, items)

	if err := c.r.Context().Err(); err != nil {
		return fmt.Errorf("push a batch: %w", err) // nobody is left to tell
	}
	b := make([]byte, 0, 128*len(items))
	b = append(b, `{"results":[`...)
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = a.appendItem(c, b, item)
	}
	c.write(http.StatusOK, contentJSON, append(b, "]}\n"...))
	return nil
}

// appendItem appends an item's answer: the push's own, or {"error"}, with its
// status in front.
func (a *API) appendItem(c *call, b []byte, item *batchItem) []byte {
	if item.err == nil {
		return item.push.appendResult(b, item.result, `"status":202,`)
	}
	p := a.note(c, item.err)
	b = append(b, `{"status":`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	b = append(b, `,"error":`...)
	return append(appendProblem(b, &p), '}')
}

// order makes each item wait for the earlier ones that have a target in common
// with it, so that a user, a session or a room gets its messages in the order
// of the batch, whatever else runs beside them.
func order(items []*batchItem) {
	last := make(map[string]*batchItem, len(items))
	for _, item := range items {
		if item.err != nil {
			continue
		}
		p := item.push
		waits := map[*batchItem]bool{}
		follow := func(target string) {
			if earlier := last[target]; earlier != nil && earlier != item && !waits[earlier] {
				waits[earlier] = true
				item.after = append(item.after, earlier)
			}
			last[target] = item
		}
		switch p.target {
		case "user":
			follow("u" + p.user)
		case "users":
			for _, user := range p.users {
				follow("u" + user)
			}
		case "keys":
			for _, key := range p.keys {
				follow("k" + key)
			}
		case "room":
			follow("r" + p.room)
		case "all":
			follow("a")
		}
	}
}

// run pushes the items, at most Config.Concurrency at once, and returns when
// all have ended. An item only waits for earlier ones, and takes its turn
// after that wait, so that they cannot wait for one another.
func (a *API) run(ctx context.Context, key *caller, items []*batchItem) {
	turns := make(chan struct{}, a.cfg.Concurrency)
	var wg sync.WaitGroup
	for _, item := range items {
		if item.err != nil {
			close(item.done)
			continue
		}
		wg.Go(func() {
			defer close(item.done)
			defer func() {
				// Out here nobody else would catch it, and the process ends.
				if v := recover(); v != nil {
					item.err = fmt.Errorf("push of a batch panicked: %v\n%s", v, debug.Stack())
				}
			}()
			for _, earlier := range item.after {
				<-earlier.done // ends with ctx at the latest, as every push does
			}
			turns <- struct{}{}
			defer func() { <-turns }()
			if err := ctx.Err(); err != nil {
				item.err = err
				return
			}
			result, err := a.service.Push(ctx, item.push.command(key))
			if err != nil {
				err = item.push.blame(err)
			}
			item.result, item.err = result, err
		})
	}
	wg.Wait()
}
