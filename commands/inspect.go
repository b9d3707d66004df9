package commands

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/clients/go/pushapi"
)

// clockOf returns how far a node's clock is from that of the node that answered, or a dash if it is
// less than a second.
func clockOf(n pushapi.Node) string {
	d := (time.Duration(n.ClockMS) * time.Millisecond).Round(time.Second)
	switch {
	case d == 0:
		return "-"
	case d > 0:
		return "+" + d.String()
	}
	return d.String()
}

// stateOf returns a word for the condition of a node.
func stateOf(n pushapi.Node) string {
	switch {
	case n.Leaving:
		return "leaving"
	case !n.Ready:
		return "no"
	}
	return "yes"
}

// show returns the action of a command that sends one GET request. With --json it prints the answer of
// the server unchanged, else what write formats.
func show[T any](path func(c *cli.Context) (string, error), write func(answer *T, w *tabwriter.Writer)) cli.ActionFunc {
	return calls(func(c *cli.Context, a *api) error {
		at, err := path(c)
		if err != nil {
			return err
		}
		var answer T
		raw, err := a.get(c.Context, at, &answer)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printLine(c, string(raw))
		}
		return printTable(c, func(w *tabwriter.Writer) { write(&answer, w) })
	})
}

// fixed returns a constant path.
func fixed(path string) func(*cli.Context) (string, error) {
	return func(*cli.Context) (string, error) { return path, nil }
}

func usersCommand() *cli.Command {
	return &cli.Command{
		Name:  "users",
		Usage: "see whether a user is online, and what waits for them; close sessions, forget devices, erase",
		Subcommands: append([]*cli.Command{{
			Name:        "show",
			Usage:       "show a user's sessions, devices and waiting messages",
			ArgsUsage:   "USER",
			Description: "imgo users show 123",
			Flags:       withAPI(jsonFlag()),
			Action:      show(ofUser(""), writeUser),
		}}, manageUserCommands()...),
	}
}

func writeUser(u *pushapi.User, w *tabwriter.Writer) {
	state := "offline"
	if u.Online {
		state = "online"
	}
	if u.SinceMS > 0 {
		state += " since " + localTime(u.SinceMS)
	}
	fmt.Fprintf(w, "user %s is %s, with %s waiting", u.User, state, count(u.Pending, "message"))
	if u.Dropped > 0 {
		fmt.Fprintf(w, " and %d dropped from a full mailbox", u.Dropped)
	}
	fmt.Fprintln(w)
	if len(u.Sessions) > 0 {
		fmt.Fprintln(w, "\nSESSION\tDEVICE\tOVER\tADDRESS\tSINCE\tROOMS")
		for _, s := range u.Sessions {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, orDash(s.Device), orDash(s.Transport), orDash(s.Address), localTime(s.SinceMS),
				orDash(strings.Join(s.Rooms, ",")))
		}
	}
	if len(u.Devices) > 0 {
		fmt.Fprintln(w, "\nDEVICE\tWAITING\tLAST SEEN")
		for _, d := range u.Devices {
			seen := localTime(d.LastSeenMS)
			if d.Online {
				seen = "online"
			}
			fmt.Fprintf(w, "%s\t%d\t%s\n", cmp.Or(d.Device, "(default)"), d.Pending, seen)
		}
	}
}

func orDash(s string) string { return cmp.Or(s, "-") }

// roomList is the answer of GET /v1/rooms, or of GET /v1/rooms/{room} if Room is not empty.
type roomList struct {
	pushapi.Room
	Rooms []pushapi.Room `json:"rooms"`
	Total int            `json:"total"`
}

func roomsPath(c *cli.Context) (string, error) {
	query := url.Values{}
	if c.IsSet("limit") {
		query.Set("limit", fmt.Sprint(c.Int("limit")))
	}
	path := "/v1/rooms"
	switch {
	case c.Args().Len() > 1:
		return "", usage(c, "unexpected argument %q; name one room at a time", c.Args().Get(1))
	case c.Args().Present() && c.IsSet("prefix"):
		return "", usage(c, "--prefix is for the list of rooms")
	case c.Args().Present():
		path += "/" + url.PathEscape(c.Args().First())
	case c.IsSet("prefix"):
		query.Set("prefix", c.String("prefix"))
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path, nil
}

func (r *roomList) write(w *tabwriter.Writer) {
	if r.Room.Room != "" {
		fmt.Fprintf(w, "room %s has %s\n", r.Room.Room, count(r.Sessions, "session"))
		if len(r.Members) > 0 {
			fmt.Fprintln(w, "\nUSER\tSESSION\tDEVICE\tOVER\tADDRESS\tSINCE")
		}
		for _, s := range r.Members {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.User, s.Name, orDash(s.Device), orDash(s.Transport), orDash(s.Address),
				localTime(s.SinceMS))
		}
		return
	}
	if len(r.Rooms) == 0 {
		fmt.Fprintln(w, "no room has members; join one with: imgo listen --user 123 --room lobby")
		return
	}
	fmt.Fprintln(w, "ROOM\tSESSIONS")
	for _, room := range r.Rooms {
		fmt.Fprintf(w, "%s\t%d\n", room.Room, room.Sessions)
	}
	if more := r.Total - len(r.Rooms); more > 0 {
		fmt.Fprintf(w, "and %d more: --limit shows them\n", more)
	}
}

func roomsCommand() *cli.Command {
	return &cli.Command{
		Name:        "rooms",
		Usage:       "list the rooms, or one room's members",
		ArgsUsage:   "[ROOM]",
		Description: "imgo rooms\nimgo rooms --prefix live/\nimgo rooms lobby",
		Flags: withAPI(
			&cli.StringFlag{Name: "prefix", Usage: "only rooms that begin with this `text`"},
			&cli.IntFlag{Name: "limit", Usage: "the most rooms or members to list", DefaultText: "1000 rooms, 100 members"},
			jsonFlag(),
		),
		Action: show(roomsPath, (*roomList).write),
	}
}

// nodeList is the answer of GET /v1/nodes.
type nodeList struct {
	Nodes []pushapi.Node `json:"nodes"`
}

func (l *nodeList) write(w *tabwriter.Writer) {
	fmt.Fprintln(w, "NODE\tROLES\tREADY\tSESSIONS\tWEIGHT\tZONE\tUP\tCLOCK\tVERSION\tADDRESS\tCLIENTS")
	for _, n := range l.Nodes {
		var clients []string
		for _, network := range slices.Sorted(maps.Keys(n.Clients)) {
			clients = append(clients, network+" "+n.Clients[network])
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, orDash(strings.Join(n.Roles, ",")), stateOf(n), n.Sessions,
			max(n.Weight, 1), orDash(n.Zone), time.Since(time.UnixMilli(n.StartMS)).Round(time.Second), clockOf(n), orDash(n.Version),
			orDash(n.Address), orDash(strings.Join(clients, ", ")))
	}
}

func nodesCommand() *cli.Command {
	return &cli.Command{
		Name:   "nodes",
		Usage:  "list the server's nodes, their roles and addresses",
		Flags:  withAPI(jsonFlag()),
		Action: show(fixed("/v1/nodes"), (*nodeList).write),
	}
}

// serverStats is the answer of GET /v1/stats.
type serverStats struct {
	Sessions int               `json:"sessions"`
	Comets   map[string]int    `json:"comets"`
	Rooms    int               `json:"rooms"`
	Pushes   map[string]uint64 `json:"pushes"`
	UptimeMS int64             `json:"uptime_ms"`
}

func (s *serverStats) write(w *tabwriter.Writer) {
	fmt.Fprintf(w, "up\t%s\n", (time.Duration(s.UptimeMS) * time.Millisecond).Round(time.Second))
	fmt.Fprintf(w, "sessions\t%d\n", s.Sessions)
	fmt.Fprintf(w, "rooms\t%d\n", s.Rooms)
	writeSorted(w, "sessions of ", s.Comets)
	writeSorted(w, "pushes: ", s.Pushes)
}

func statsCommand() *cli.Command {
	return &cli.Command{
		Name:   "stats",
		Usage:  "count sessions, rooms and pushes",
		Flags:  withAPI(jsonFlag()),
		Action: show(fixed("/v1/stats"), (*serverStats).write),
	}
}

// writeSorted writes counts in the order of their names.
func writeSorted[N int | uint64](w *tabwriter.Writer, head string, counts map[string]N) {
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "%s%s\t%d\n", head, name, counts[name])
	}
}
