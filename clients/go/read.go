package imgoclient

import (
	"context"
	"slices"

	"imgo/clients/go/raw"
)

// maxReadIDs bounds the ids of one Read. They take 4 KiB, well below the body limit of every server.
const maxReadIDs = ackBatch

// Read tells the server that the user has read messages: those with ids, and all up to upTo if that is not 0. It
// waits for the reply. All devices of the user have acknowledged the messages then, and the user's other sessions
// get a Dismiss. There are at most 500 ids in a call. The error is ErrNotLive without a connection.
func (c *Client) Read(ctx context.Context, ids []uint64, upTo uint64) error {
	switch {
	case len(ids) == 0 && upTo == 0:
		return invalid("read: name the messages by ids or upTo")
	case len(ids) > maxReadIDs:
		return invalid("read: there are %d ids, at most %d are allowed in one call", len(ids), maxReadIDs)
	case slices.Contains(ids, 0):
		return invalid("read: 0 is no id of a message: messages that are not kept cannot be told as read")
	}
	s, err := c.liveSession("tell which messages were read")
	if err != nil {
		return err
	}
	_, err = s.call(ctx, "tell which messages were read", raw.Packet{Op: raw.OpRead, ID: upTo, Body: raw.AckBody(false, ids)})
	return err
}

// dismissed tells the application that messages were read elsewhere.
func (c *Client) dismissed(e *events, d Dismiss) {
	if c.cfg.OnDismiss != nil {
		e.add(func() { c.cfg.OnDismiss(d) })
	}
}
