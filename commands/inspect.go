package commands

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
)

// session is a session in the answers of the API.
type session struct {
	Name      string   `json:"name"`
	User      string   `json:"user"`
	Device    string   `json:"device"`
	Platform  string   `json:"platform"`
	Address   string   `json:"address"`
	Transport string   `json:"transport"`
	SinceMS   int64    `json:"since_ms"`
	Rooms     []string `json:"rooms"`
}

// node is a node in the answer of GET /v1/nodes.
type node struct {
	Name     string            `json:"name"`
	Roles    []string          `json:"roles"`
	Version  string            `json:"version"`
	StartMS  int64             `json:"start_ms"`
	Ready    bool              `json:"ready"`
	Sessions int               `json:"sessions"`
	Clients  map[string]string `json:"clients"`
	Address  string            `json:"address"`
	Weight   int               `json:"weight"`
	Zone     string            `json:"zone"`
	Leaving  bool              `json:"leaving"`
	ClockMS  int64             `json:"clock_ms"`
}

// clock returns how far the node's clock is from that of the node that answered, or a dash if it is
// less than a second.
func (n node) clock() string {
	d := (time.Duration(n.ClockMS) * time.Millisecond).Round(time.Second)
	switch {
	case d == 0:
		return "-"
	case d > 0:
		return "+" + d.String()
	}
	return d.String()
}

// state returns a word for the condition of the node.
func (n node) state() string {
	switch {
	case n.Leaving:
		return "leaving"
	case !n.Ready:
		return "no"
	}
	return "yes"
}

// query is a command that sends one GET request. With --json it prints the answer of the server
// unchanged, else what write formats.
type query[T any] struct {
	path  func(c *cli.Context) (string, error)
	write func(w *tabwriter.Writer, answer *T)
}

func (q query[T]) ask(c *cli.Context) error {
	path, err := q.path(c)
	if err != nil {
		return err
	}
	a, err := newAPI(c)
	if err != nil {
		return err
	}
	defer a.close()
	var answer T
	raw, err := a.get(c.Context, path, &answer)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printLine(c, string(raw))
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	q.write(w, &answer)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// fixed returns a constant path and refuses arguments.
func fixed(path string) func(*cli.Context) (string, error) {
	return func(c *cli.Context) (string, error) {
		if c.Args().Present() {
			return "", usage(c, "%q is too much", c.Args().First())
		}
		return path, nil
	}
}

func usersCommand() *cli.Command {
	type device struct {
		Device     string `json:"device"`
		Online     bool   `json:"online"`
		LastSeenMS int64  `json:"last_seen_ms"`
		Pending    int    `json:"pending"`
	}
	type user struct {
		User     string    `json:"user"`
		Online   bool      `json:"online"`
		Sessions []session `json:"sessions"`
		Devices  []device  `json:"devices"`
		Pending  int       `json:"pending"`
		Dropped  uint64    `json:"dropped"`
		SinceMS  int64     `json:"since_ms"`
	}
	show := query[user]{
		path: func(c *cli.Context) (string, error) {
			if c.Args().Len() != 1 {
				return "", usage(c, "which user? Write imgo users show 123")
			}
			return userPath(c.Args().First(), ""), nil
		},
		write: func(w *tabwriter.Writer, u *user) {
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
				writeSessions(w, u.Sessions)
			}
			if len(u.Devices) > 0 {
				fmt.Fprintln(w, "\nDEVICE\tWAITING\tLAST SEEN")
				for _, d := range u.Devices {
					name, seen := d.Device, localTime(d.LastSeenMS)
					if name == "" {
						name = "(default)"
					}
					if d.Online {
						seen = "online"
					}
					fmt.Fprintf(w, "%s\t%d\t%s\n", name, d.Pending, seen)
				}
			}
		},
	}
	return &cli.Command{
		Name:  "users",
		Usage: "see whether a user is online, and what waits for them; close sessions, forget devices, erase",
		Subcommands: append([]*cli.Command{{
			Name:        "show",
			Usage:       "show a user's sessions, devices and waiting messages",
			ArgsUsage:   "USER",
			Description: "imgo users show 123",
			Flags:       withAPI(jsonFlag()),
			Action:      show.ask,
		}}, manageUserCommands()...),
	}
}

// writeSessions writes one row for each session.
func writeSessions(w *tabwriter.Writer, sessions []session) {
	for _, s := range sessions {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, orDash(s.Device), orDash(s.Transport), orDash(s.Address), localTime(s.SinceMS),
			orDash(strings.Join(s.Rooms, ",")))
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func roomsCommand() *cli.Command {
	type room struct {
		Room     string `json:"room"`
		Sessions int    `json:"sessions"`
	}
	type rooms struct {
		room
		Members []session `json:"members"`
		Rooms   []room    `json:"rooms"`
		Total   int       `json:"total"`
	}
	list := query[rooms]{
		path: func(c *cli.Context) (string, error) {
			query := url.Values{}
			if c.IsSet("limit") {
				query.Set("limit", fmt.Sprint(c.Int("limit")))
			}
			path := "/v1/rooms"
			switch {
			case c.Args().Len() > 1:
				return "", usage(c, "one room at a time: %q is too much", c.Args().Get(1))
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
		},
		write: func(w *tabwriter.Writer, r *rooms) {
			if r.Room != "" {
				fmt.Fprintf(w, "room %s has %s\n", r.Room, count(r.Sessions, "session"))
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
		},
	}
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
		Action: list.ask,
	}
}

func nodesCommand() *cli.Command {
	type nodes struct {
		Nodes []node `json:"nodes"`
	}
	list := query[nodes]{
		path: fixed("/v1/nodes"),
		write: func(w *tabwriter.Writer, answer *nodes) {
			fmt.Fprintln(w, "NODE\tROLES\tREADY\tSESSIONS\tWEIGHT\tZONE\tUP\tCLOCK\tVERSION\tADDRESS\tCLIENTS")
			for _, n := range answer.Nodes {
				var clients []string
				for network, address := range n.Clients {
					clients = append(clients, network+" "+address)
				}
				slices.Sort(clients)
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, orDash(strings.Join(n.Roles, ",")), n.state(), n.Sessions,
					max(n.Weight, 1), orDash(n.Zone), time.Since(time.UnixMilli(n.StartMS)).Round(time.Second), n.clock(), orDash(n.Version),
					orDash(n.Address), orDash(strings.Join(clients, ", ")))
			}
		},
	}
	return &cli.Command{
		Name:   "nodes",
		Usage:  "list the server's nodes, their roles and addresses",
		Flags:  withAPI(jsonFlag()),
		Action: list.ask,
	}
}

func statsCommand() *cli.Command {
	type stats struct {
		Sessions int               `json:"sessions"`
		Comets   map[string]int    `json:"comets"`
		Rooms    int               `json:"rooms"`
		Pushes   map[string]uint64 `json:"pushes"`
		UptimeMS int64             `json:"uptime_ms"`
	}
	show := query[stats]{
		path: fixed("/v1/stats"),
		write: func(w *tabwriter.Writer, s *stats) {
			fmt.Fprintf(w, "up\t%s\n", (time.Duration(s.UptimeMS) * time.Millisecond).Round(time.Second))
			fmt.Fprintf(w, "sessions\t%d\n", s.Sessions)
			fmt.Fprintf(w, "rooms\t%d\n", s.Rooms)
			writeSorted(w, "sessions of ", s.Comets)
			writeSorted(w, "pushes: ", s.Pushes)
		},
	}
	return &cli.Command{
		Name:   "stats",
		Usage:  "count sessions, rooms and pushes",
		Flags:  withAPI(jsonFlag()),
		Action: show.ask,
	}
}

// writeSorted writes counts in the order of their names.
func writeSorted[N int | uint64](w *tabwriter.Writer, head string, counts map[string]N) {
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(w, "%s%s\t%d\n", head, name, counts[name])
	}
}
