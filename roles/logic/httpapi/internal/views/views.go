// Package views has what more than one of the APIs shows of nodes and rooms. It
// computes and asks nobody.
package views

import (
	"cmp"
	"slices"
	"strings"

	"imgo/roles/logic"
)

// Room is one room of GET /v1/rooms.
type Room struct {
	Room     string `json:"room"`
	Sessions uint32 `json:"sessions"`
}

// FullestRooms returns the rooms whose names begin with prefix, sorted by members
// and then by name.
func FullestRooms(counts map[string]uint32, prefix string) []Room {
	list := []Room{}
	for room, n := range counts {
		if n > 0 && strings.HasPrefix(room, prefix) {
			list = append(list, Room{Room: room, Sessions: n})
		}
	}
	slices.SortFunc(list, func(x, y Room) int {
		return cmp.Or(cmp.Compare(y.Sessions, x.Sessions), cmp.Compare(x.Room, y.Room))
	})
	return list
}

// Comets returns the nodes that hold connections.
func Comets(nodes []logic.NodeInfo) []logic.NodeInfo {
	return slices.DeleteFunc(slices.Clone(nodes), func(n logic.NodeInfo) bool { return !slices.Contains(n.Roles, "comet") })
}

// Weight returns the share of clients that a comet should have, in proportion to
// other comets.
func Weight(n logic.NodeInfo) int { return max(n.Weight, 1) }

// Bare returns an address without its scheme (tls://, wss://) and path.
func Bare(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	address, _, _ = strings.Cut(address, "/")
	return address
}
