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

func (a *API) addMember(c *call) error    { return c.setMemberByPath(true) }
func (a *API) removeMember(c *call) error { return c.setMemberByPath(false) }

func (c *call) setMemberByPath(member bool) error {
	room, badRoom := c.PathName("room")
	user, badUser := c.PathName("user")
	if err := cmp.Or(badRoom, badUser, c.Known()); err != nil {
		return err
	}
	return c.setMember(room, user, member)
}

// The paths with a query take names that a path cannot carry.
func (a *API) addMemberByQuery(c *call) error    { return c.setMemberByQuery(true) }
func (a *API) removeMemberByQuery(c *call) error { return c.setMemberByQuery(false) }

func (c *call) setMemberByQuery(member bool) error {
	if err := c.Known("room", "user"); err != nil {
		return err
	}
	room, badRoom := c.QueryName("room")
	user, badUser := c.QueryName("user")
	if err := cmp.Or(badRoom, badUser); err != nil {
		return err
	}
	return c.setMember(room, user, member)
}

func (c *call) setMember(room, user string, member bool) error {
	r, err := c.api.service.SetMember(c.Ctx, room, user, member)
	if err != nil {
		return err
	}
	return c.Reply(http.StatusOK, memberView{Room: room, User: user, Member: member, Sessions: r.Sessions, Late: r.Late})
}

// userRooms answers GET /v1/users/{user}/rooms with the rooms that the API has put
// the user into. Those that its sessions have joined by themselves are in
// GET /v1/users/{user}.
func (a *API) userRooms(c *call) error {
	user, err := c.PathName("user")
	if err := cmp.Or(err, c.Known()); err != nil {
		return err
	}
	return c.replyUserRooms(user)
}

func (a *API) userRoomsByQuery(c *call) error {
	if err := c.Known("user"); err != nil {
		return err
	}
	user, err := c.QueryName("user")
	if err != nil {
		return err
	}
	return c.replyUserRooms(user)
}

func (c *call) replyUserRooms(user string) error {
	rooms, limit, err := c.api.service.UserRooms(c.Ctx, user)
	if err != nil {
		return err
	}
	if rooms == nil {
		rooms = []string{}
	}
	return c.Reply(http.StatusOK, userRoomsView{User: user, Rooms: rooms, Limit: limit})
}
