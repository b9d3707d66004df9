package httpapi

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

// roomView is one room of GET /v1/rooms.
type roomView struct {
	Room     string `json:"room"`
	Sessions uint32 `json:"sessions"`
}

// Bounds of the lists of rooms and members in one answer.
const (
	maxRooms   = 10_000
	maxMembers = 10_000
)

// rooms answers GET /v1/rooms: those with members, the fullest first.
func (a *API) rooms(c *call) error {
	if err := c.known("prefix", "limit"); err != nil {
		return err
	}
	limit, err := c.number("limit", 1000, 1, maxRooms)
	if err != nil {
		return err
	}
	counts, err := a.service.Rooms(c.ctx)
	if err != nil {
		return err
	}
	list := fullest(counts, c.param("prefix"))
	total := len(list)
	return c.reply(http.StatusOK, map[string]any{"rooms": list[:min(len(list), int(limit))], "total": total})
}

// fullest are the rooms that begin with prefix, by members and then by name.
func fullest(counts map[string]uint32, prefix string) []roomView {
	list := []roomView{}
	for room, n := range counts {
		if n > 0 && strings.HasPrefix(room, prefix) {
			list = append(list, roomView{Room: room, Sessions: n})
		}
	}
	slices.SortFunc(list, func(x, y roomView) int {
		return cmp.Or(cmp.Compare(y.Sessions, x.Sessions), cmp.Compare(x.Room, y.Room))
	})
	return list
}

// room answers GET /v1/rooms/{room}. A room that nobody is in has no members;
// rooms are not made or deleted, so it is not missing.
func (a *API) room(c *call) error {
	room, err := c.pathName("room")
	if err != nil {
		return err
	}
	if err := c.known("limit"); err != nil {
		return err
	}
	limit, err := c.number("limit", 100, 0, maxMembers)
	if err != nil {
		return err
	}
	members, total, err := a.service.Room(c.ctx, room, int(limit))
	if err != nil {
		return err
	}
	members = members[:min(len(members), int(limit))]
	return c.reply(http.StatusOK, map[string]any{"room": room, "sessions": total, "members": viewSessions(members)})
}
