package imgo2016

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"slices"
	"strconv"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// The fields of /1/count, in imgo 2016's order and with its names.
type (
	roomCount struct {
		RoomID int32 `json:"RoomId"`
		Count  int32
	}
	serverCount struct{ Server, Count int32 }
)

// noRoom is the number under which sessions outside every room are counted.
const noRoom = -1

// count answers GET /1/count?type=room or server.
func (a *API) count(c *httpcall.Call) error {
	reply := struct {
		Data any `json:"data,omitempty"`
		Ret  int `json:"ret"`
	}{Ret: retOK}
	switch c.Param("type") {
	case "room":
		rooms, err := a.roomCounts(c)
		if err != nil {
			return err
		}
		reply.Data = rooms
	case "server":
		comets, err := a.service.CountByComet(c.Ctx)
		if err != nil {
			return err
		}
		list := make([]serverCount, 0, len(comets))
		for name, n := range comets {
			list = append(list, serverCount{Server: serverNumber(name), Count: int32(min(n, math.MaxInt32))})
		}
		slices.SortFunc(list, func(x, y serverCount) int { return cmp.Compare(x.Server, y.Server) })
		reply.Data = list
	}
	data, err := json.Marshal(reply)
	if err != nil {
		return fmt.Errorf("encode the counts: %w", err)
	}
	c.Write(http.StatusOK, httpcall.ContentText, data)
	return nil
}

// roomCounts returns the rooms with numbers for names, as imgo 2016 had them.
// Before them comes the number of sessions in no room. In imgo 2016 a session was
// in one room at most, so these are all sessions less those in rooms.
func (a *API) roomCounts(c *httpcall.Call) ([]roomCount, error) {
	rooms, err := a.service.Rooms(c.Ctx)
	if err != nil {
		return nil, err
	}
	stats, err := a.service.Stats(c.Ctx)
	if err != nil {
		return nil, err
	}
	list := make([]roomCount, 0, len(rooms)+1)
	roomless := int64(stats.Sessions)
	for name, n := range rooms {
		roomless -= int64(n)
		id, err := strconv.ParseInt(name, 10, 32)
		if err != nil || id == noRoom || strconv.FormatInt(id, 10) != name {
			continue
		}
		list = append(list, roomCount{RoomID: int32(id), Count: int32(min(n, math.MaxInt32))})
	}
	list = append(list, roomCount{RoomID: noRoom, Count: int32(min(max(roomless, 0), math.MaxInt32))})
	slices.SortFunc(list, func(x, y roomCount) int { return cmp.Compare(x.RoomID, y.RoomID) })
	return list, nil
}

// serverNumber returns a comet's number for callers of imgo 2016, whose comets
// had no names. It is the name if that is a number, and else a hash of the name,
// which is the same on every node.
func serverNumber(comet string) int32 {
	if n, err := strconv.ParseInt(comet, 10, 32); err == nil && strconv.FormatInt(n, 10) == comet {
		return int32(n)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(comet))           // never fails
	return int32(h.Sum32() & math.MaxInt32) // 31 bits
}

// serverDel answers POST /1/server/del?server=. It drops the records of a comet's
// sessions. A comet that is alive announces them again, and those of a dead comet
// would also end without this call.
func (a *API) serverDel(c *httpcall.Call) error {
	number, err := strconv.ParseInt(c.Param("server"), 10, 32)
	if err != nil {
		return envelope.Invalid("server", "must be a whole number of 32 bits, as /1/count?type=server shows it")
	}
	comets, err := a.service.CountByComet(c.Ctx)
	if err != nil {
		return err
	}
	names := []string{strconv.FormatInt(number, 10)}
	for name := range comets {
		if name != names[0] && int64(serverNumber(name)) == number {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if _, err := a.service.ForgetComet(c.Ctx, name); err != nil && !errors.Is(err, envelope.ErrNotFound) {
			return err
		}
	}
	return replyRet(c, retOK)
}
