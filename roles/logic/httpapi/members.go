package httpapi

import (
	"cmp"
	"net/http"
)

// memberView is the answer of PUT and DELETE /v1/rooms/{room}/users/{user}.
type memberView struct {
	Room   string `json:"room"`
	User   string `json:"user"`
	Member bool   `json:"member"`
	// Sessions are those that have followed the change by now. Late are those whose
	// node did not answer: they are told again.
	Sessions int `json:"sessions"`
	Late     int `json:"late"`
}

// userRoomsView is the answer of GET /v1/users/{user}/rooms.
type userRoomsView struct {
	User  string   `json:"user"`
	Rooms []string `json:"rooms"`
	Limit int      `json:"limit"`
}

// addMember answers PUT, and removeMember DELETE, of /v1/rooms/{room}/users/{user} and /v1/memberships?room=…&user=….
func (h roomHandlers) addMember(c *call) error    { return h.setMember(c, true) }
func (h roomHandlers) removeMember(c *call) error { return h.setMember(c, false) }

func (h roomHandlers) setMember(c *call, member bool) error {
	room, badRoom := c.name("room", "user")
	user, badUser := c.name("user", "room")
	if err := cmp.Or(badRoom, badUser); err != nil {
		return err
	}
	r, err := h.service.SetMember(c.Ctx, room, user, member)
	return c.answer(http.StatusOK, memberView{Room: room, User: user, Member: member, Sessions: r.Sessions, Late: r.Late}, err)
}

// ofUser answers GET /v1/users/{user}/rooms and GET /v1/memberships?user=… with the rooms that the API has put
// the user into. Those that its sessions have joined by themselves are in
// GET /v1/users/{user}.
func (h roomHandlers) ofUser(c *call, user string) error {
	rooms, limit, err := h.service.UserRooms(c.Ctx, user)
	if rooms == nil {
		rooms = []string{}
	}
	return c.answer(http.StatusOK, userRoomsView{User: user, Rooms: rooms, Limit: limit}, err)
}
