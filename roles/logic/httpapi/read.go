package httpapi

import (
	"fmt"
	"net/http"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/protocol"
)

// readRequest is the body of POST /v1/users/{user}/read.
type readRequest struct{ read envelope.Read }

func (q *readRequest) Field(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "up_to":
		var text string
		if text, err = r.Text(); err == nil {
			q.read.UpTo, err = messageID(name, text)
		}
	case "ids":
		var list []string
		if list, err = r.Texts(protocol.MaxReadIDs); err != nil {
			return err
		}
		q.read.Ids = make([]uint64, len(list))
		for i, text := range list {
			if q.read.Ids[i], err = messageID(fmt.Sprintf("ids[%d]", i), text); err != nil {
				return err
			}
		}
	case "device":
		if q.read.Device, err = r.Text(); err == nil {
			err = envelope.CheckName(name, q.read.Device)
		}
	default:
		return jsonread.ErrUnknownField
	}
	return err
}

// read answers POST /v1/users/{user}/read and POST /v1/user/read?user=…: the user has read messages.
func (h userHandlers) read(c *call, user string) error {
	req := &readRequest{}
	if err := c.decode(req); err != nil {
		return err
	}
	req.read.User = user
	if len(req.read.Ids) == 0 && req.read.UpTo == 0 {
		return envelope.Invalid("ids",
			`is missing or empty, and so is up_to: name the messages that were read, such as {"up_to":"283242202310657"}`)
	}
	reply, err := h.service.Read(c.Ctx, &envelope.ReadRequest{Read: &req.read})
	return c.answer(http.StatusOK, map[string]uint32{"sessions": reply.GetSessions()}, err)
}
