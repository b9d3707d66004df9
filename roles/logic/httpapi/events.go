package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

const (
	// maxEvents bounds the events of one answer.
	maxEvents = 1000
	// maxWait is the longest time that a call waits for an event.
	maxWait = 50 * time.Second
	// maxWaiting bounds the calls that wait, or look for the end of the topic, at the same time.
	maxWaiting = 256
)

// eventHandlers answer the calls about events.
type eventHandlers struct {
	service Events
	// ends is done when calls must not wait any more.
	ends context.Context
	// waiting has a place for each call that waits for events, or looks for the end of the topic.
	waiting chan struct{}
}

// list answers GET /v1/events: what became of messages. The answer's next is the value of `after` for the next
// call.
func (h eventHandlers) list(c *call) error {
	q, err := c.eventsQuery()
	if err != nil {
		return err
	}
	ctx := c.Ctx
	if q.Wait > 0 || q.Now {
		select {
		case h.waiting <- struct{}{}:
			defer func() { <-h.waiting }()
		default:
			return envelope.Errorf(envelope.CodeUnavailable, "too many calls wait for events (limit %d)", maxWaiting)
		}
		// A node that stops, or that gets more partitions, must not wait for it.
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(c.Ctx)
		defer stop()
		defer context.AfterFunc(h.ends, stop)()
	}
	page, err := h.service.Events(ctx, q)
	if err != nil && h.ends.Err() != nil && c.Ctx.Err() == nil {
		return envelope.Errorf(envelope.CodeUnavailable, "the server ended the wait, because it stops or gets more partitions; ask again")
	}
	if err != nil {
		return err
	}
	c.Write(http.StatusOK, httpcall.ContentJSON, appendPage(nil, page))
	return nil
}

func (c *call) eventsQuery() (q events.Query, err error) {
	if err := c.Known("after", "limit", "types", "user", "wait"); err != nil {
		return q, err
	}
	if c.Params().Has("user") {
		if q.User, err = c.QueryName("user"); err != nil {
			return q, err
		}
	}
	limit, err := c.Number("limit", 100, 1, maxEvents)
	if err != nil {
		return q, err
	}
	q.Limit = int(limit)
	if c.Params().Has("types") {
		q.Types = strings.Split(c.Param("types"), ",")
		if err := events.CheckTypes("types", q.Types); err != nil {
			return q, err
		}
	}
	if c.Params().Has("wait") {
		if q.Wait, err = parseWait(c.Param("wait")); err != nil {
			return q, err
		}
	}
	if after := c.Param("after"); after == "now" {
		q.Now = true
	} else if q.After, err = events.ParseCursor(after); err != nil {
		return q, envelope.Invalid("after", err.Error())
	}
	return q, nil
}

// parseWait reads whole seconds, such as 30s.
func parseWait(text string) (time.Duration, error) {
	seconds, err := strconv.Atoi(strings.TrimSuffix(text, "s"))
	wait := time.Duration(seconds) * time.Second
	if err != nil || wait < 0 || wait > maxWait || text != strconv.Itoa(seconds)+"s" {
		return 0, envelope.Invalid("wait", "must be whole seconds from 0s to "+maxWait.String()+", such as 30s")
	}
	return wait, nil
}

// appendPage appends an answer of GET /v1/events.
func appendPage(b []byte, page *events.Page) []byte {
	b = append(b, `{"events":[`...)
	for i := range page.Records {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, page.Records[i].Value...)
	}
	b = append(b, `],"next":"`...)
	b = append(b, page.Next.String()...)
	b = append(b, `","more":`...)
	b = strconv.AppendBool(b, page.More)
	if page.Skipped > 0 {
		b = append(b, `,"skipped":`...)
		b = strconv.AppendInt(b, page.Skipped, 10)
	}
	return append(b, '}', '\n')
}
