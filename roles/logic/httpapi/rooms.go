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

// roomHandlers answer the calls about rooms and their members.
type roomHandlers struct{ service Rooms }

// list answers GET /v1/rooms with the rooms that have members, the fullest first.
func (h roomHandlers) list(c *call) error {
	limit, err := c.Number("limit", 1000, 1, maxRooms)
	if err != nil {
		return err
	}
	counts, err := h.service.Rooms(c.Ctx)
	if err != nil {
		return err
	}
	list := views.FullestRooms(counts, c.Param("prefix"))
	total := len(list)
	return c.Reply(http.StatusOK, map[string]any{"rooms": list[:min(len(list), int(limit))], "total": total})
}

// get answers GET /v1/rooms/{room} and GET /v1/room?room=…. An empty room is no error, since rooms are
// neither made nor deleted.
func (h roomHandlers) get(c *call, room string) error {
	limit, err := c.Number("limit", 100, 0, maxMembers)
	if err != nil {
		return err
	}
	members, total, err := h.service.Room(c.Ctx, room, int(limit))
	if err != nil {
		return err
	}
	members = members[:min(len(members), int(limit))]
	return c.Reply(http.StatusOK, map[string]any{"room": room, "sessions": total, "members": viewSessions(members)})
}
