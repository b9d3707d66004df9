package imgoclient

import (
	"context"
	"fmt"
	"time"
)

// gather saves the ids of handled messages, if there is a store, and makes them due for an
// acknowledgement. Ids of one AckDelay go together. It returns when ctx is done.
func (c *Client) gather(ctx context.Context, e *events) {
	var again <-chan time.Time // fires when ids that could not be saved are tried again
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.inbox.ready:
		case <-again:
		}
		if !sleep(ctx, c.cfg.AckDelay, nil) {
			return
		}
		again = nil
		if err := c.save(ctx); err != nil {
			if ctx.Err() != nil {
				return // the end of Run tries once more
			}
			c.report(e, err)
			again = time.After(c.cfg.MaxBackoff)
		}
	}
}

// save saves the ids of handled messages and makes them due.
func (c *Client) save(ctx context.Context) *Error {
	ids := c.inbox.drainFresh()
	if len(ids) == 0 {
		return nil
	}
	if c.cfg.Store != nil {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
		defer cancel()
		if err := c.cfg.Store.Add(ctx, ids); err != nil {
			c.inbox.saved(ids, false)
			return &Error{Code: CodeStorage, Text: fmt.Sprintf("save the ids of %d handled messages", len(ids)), Err: err}
		}
	}
	c.inbox.saved(ids, true)
	return nil
}

// load reads the ids of the store, once.
func (c *Client) load(ctx context.Context) *Error {
	if c.cfg.Store == nil || c.loaded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	ids, err := c.cfg.Store.Load(ctx)
	if err != nil {
		return &Error{Code: CodeStorage, Text: "load the ids of handled messages", Err: err}
	}
	c.inbox.load(ids)
	c.loaded = true
	return nil
}

// sleep waits for d, or until wake has a token or is closed. It reports false if ctx is done.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
