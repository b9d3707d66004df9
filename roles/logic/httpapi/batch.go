package httpapi

import (
	"fmt"
	"net/http"
	"sync"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// batch answers POST /v1/push/batch. Each push gets the status and the body
// that it would have got alone.
func (h pushHandlers) batch(c *call) error {
	if c.R.Header.Get("Idempotency-Key") != "" {
		return envelope.Invalid("Idempotency-Key", "is not a header for a batch: give each push its own idempotency_key")
	}
	pushes, err := decodeField(c, "pushes", func(r *jsonread.Reader) ([][]byte, error) {
		return r.Raws("pushes", "an array of pushes", h.cfg.MaxBatch) // valid JSON, but otherwise unchecked
	})
	if err != nil {
		return err
	}
	if len(pushes) == 0 {
		return envelope.Invalid("pushes", "is missing or empty")
	}
	items := make([]*pushItem, len(pushes))
	var order pushOrder
	receivers := 0
	for i, raw := range pushes {
		items[i] = newPushItem(raw, h.cfg.MaxUsers)
		if items[i].err == nil {
			order.add(items[i])
			receivers += items[i].push.receivers()
		}
		// Each receiver costs some hundred bytes until the answer is written.
		if receivers > h.cfg.MaxUsers {
			return &envelope.Error{Code: envelope.CodeTooLarge, Field: "pushes",
				Message: fmt.Sprintf("name more than %d users and keys in all (http.max_users): send several batches", h.cfg.MaxUsers)}
		}
	}
	h.run(c, items)

	if err := c.R.Context().Err(); err != nil {
		return fmt.Errorf("push a batch: %w", err) // nobody is left to tell
	}
	b := make([]byte, 0, 128*len(items))
	b = append(b, `{"results":[`...)
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.appendItem(b, item)
	}
	c.Write(http.StatusOK, httpcall.ContentJSON, append(b, "]}\n"...))
	return nil
}

// run pushes the items, at most Config.Concurrency at once, and returns when
// all are done. An item only waits for earlier ones, and takes one of the slots
// after that wait, so that items cannot wait for one another.
func (h pushHandlers) run(c *call, items []*pushItem) {
	slots := make(chan struct{}, h.cfg.Concurrency)
	var wg sync.WaitGroup
	for _, item := range items {
		if item.err != nil {
			close(item.done)
			continue
		}
		wg.Go(func() {
			item.wait()
			slots <- struct{}{}
			defer func() { <-slots }()
			item.run(c.Ctx, h.service, c.key)
		})
	}
	wg.Wait()
}
