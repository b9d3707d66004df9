package httpapi

import (
	"net/http"

	"imgo/roles/logic/httpapi/internal/views"
)

// Bounds of the lists of rooms and members in one answer.
const (
	maxRooms   = 10_000
	maxMembers = 10_000
)

// rooms answers GET /v1/rooms with the rooms that have members, the fullest first.
func (a *API) rooms(c *call) error {
	if err := c.Known("prefix", "limit"); err != nil {
		return err
	}
	limit, err := c.Number("limit", 1000, 1, maxRooms)
	if err != nil {
		return err
	}
	counts, err := a.service.Rooms(c.Ctx)
	if err != nil {
		return err
	}
	list := views.FullestRooms(counts, c.Param("prefix"))
	total := len(list)
	return c.Reply(http.StatusOK, map[string]any{"rooms": list[:min(len(list), int(limit))], "total": total})
}

// room answers GET /v1/rooms/{room}. An empty room is no error, since rooms are
// neither made nor deleted.
func (a *API) room(c *call) error {
	room, err := c.PathName("room")
	if err != nil {
		return err
	}
	if err := c.Known("limit"); err != nil {
		return err
	}
	return c.replyRoom(room)
}

// roomByQuery answers GET /v1/room?room=…, which takes every name. A proxy that
// decodes paths, or mends them, makes another name of "live://1" in a path.
func (a *API) roomByQuery(c *call) error {
	if err := c.Known("room", "limit"); err != nil {
		return err
	}
	room, err := c.QueryName("room")
	if err != nil {
		return err
	}
	return c.replyRoom(room)
}

func (c *call) replyRoom(room string) error {
	limit, err := c.Number("limit", 100, 0, maxMembers)
	if err != nil {
		return err
	}
	members, total, err := c.api.service.Room(c.Ctx, room, int(limit))
	if err != nil {
		return err
	}
	members = members[:min(len(members), int(limit))]
	return c.Reply(http.StatusOK, map[string]any{"room": room, "sessions": total, "members": viewSessions(members)})
}
