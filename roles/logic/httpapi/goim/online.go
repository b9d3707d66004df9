package goim

import (
	"math"
	"strings"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
	"imgo/roles/logic/httpapi/internal/views"
)

// top is a room of /goim/online/top.
type top struct {
	RoomID string `json:"room_id"`
	Count  int32  `json:"count"`
}

// onlineTop answers GET /goim/online/top?type=&limit= with the fullest rooms whose
// id begins with type.
func (a *API) onlineTop(c *httpcall.Call) error {
	b := bind(c)
	kind, limit := b.query.Get("type"), b.integer("limit", 64)
	b.require("type", "Type", kind != "")
	b.require("limit", "Limit", limit != 0)
	if !b.ok(c) {
		return nil
	}
	if limit < 0 { // crashed goim's handler
		return refuse(c, envelope.Invalid("limit", "must not be negative"))
	}
	rooms, err := a.service.Rooms(c.Ctx)
	if err != nil {
		return refuse(c, err)
	}
	tops := []top{}
	for _, r := range views.FullestRooms(rooms, kind) {
		if int64(len(tops)) == limit {
			break
		}
		// Rooms that are not goim's have no type and no place here.
		if _, id, ok := strings.Cut(r.Room, "://"); ok {
			tops = append(tops, top{RoomID: id, Count: count32(r.Sessions)})
		}
	}
	return replyData(c, tops)
}

func count32(n uint32) int32 { return int32(min(n, math.MaxInt32)) }

// onlineRoom answers GET /goim/online/room?type=&rooms=&rooms=.
func (a *API) onlineRoom(c *httpcall.Call) error {
	b := bind(c)
	kind, rooms := b.query.Get("type"), b.query["rooms"]
	b.require("type", "Type", kind != "")
	b.require("rooms", "Rooms", len(rooms) > 0)
	if !b.ok(c) {
		return nil
	}
	counts, err := a.service.Rooms(c.Ctx)
	if err != nil {
		return refuse(c, err)
	}
	online := make(map[string]int32, len(rooms))
	for _, room := range rooms {
		online[room] = count32(counts[roomName(kind, room)])
	}
	return replyData(c, online)
}

// onlineTotal answers GET /goim/online/total. Addresses are not counted across
// comets, so ip_count is its upper bound, the number of connections.
func (a *API) onlineTotal(c *httpcall.Call) error {
	s, err := a.service.Stats(c.Ctx)
	if err != nil {
		return err
	}
	return replyData(c, map[string]int{"ip_count": s.Sessions, "conn_count": s.Sessions})
}
