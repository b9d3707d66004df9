package commands

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/internal/wait"
)

// removed is the answer of a DELETE below /v1/users/{user}.
type removed struct {
	Messages   int   `json:"messages"`
	Devices    int   `json:"devices"`
	Tokens     int   `json:"tokens"`
	Sessions   int   `json:"sessions"`
	LogUntilMS int64 `json:"log_until_ms"`
}

// text says what was removed, without what there was none of.
func (r removed) text() string {
	var parts []string
	for _, p := range []struct {
		n     int
		thing string
	}{{r.Messages, "message"}, {r.Devices, "device"}, {r.Tokens, "token"}, {r.Sessions, "session"}} {
		if p.n > 0 {
			parts = append(parts, count(p.n, p.thing))
		}
	}
	if len(parts) == 0 {
		return "nothing was there"
	}
	return "removed " + strings.Join(parts, ", ")
}

// userPath returns the path of a call about a user, with what is below the user's own, such as /kick. Names that a path, or a
// proxy on the way, may not carry go into the query.
func userPath(user, below string) string {
	if plainInPath(user) && user != "online" {
		return "/v1/users/" + user + below
	}
	return "/v1/user" + below + "?user=" + url.QueryEscape(user)
}

// ofUser returns the userPath of the one user that is the argument of a command.
func ofUser(below string) func(*cli.Context) (string, error) {
	return func(c *cli.Context) (string, error) {
		if c.Args().Len() != 1 {
			return "", usage(c, "which user? Write %s 123", c.Command.HelpName)
		}
		return userPath(c.Args().First(), below), nil
	}
}

// devicePath is userPath for a device. The device without a name is empty.
func devicePath(user, device string) string {
	if plainInPath(user) && plainInPath(device) {
		return "/v1/users/" + user + "/devices/" + device
	}
	return "/v1/user/devices?user=" + url.QueryEscape(user) + "&device=" + url.QueryEscape(device)
}

// plainInPath reports whether a name is a segment of a path as it is.
func plainInPath(name string) bool {
	return name != "" && name != "." && name != ".." && url.PathEscape(name) == name
}

// remove returns a command's action that sends a DELETE request for the arguments named in names, the first of which
// is the user. path returns the path of the call.
func remove(names []string, path func(args []string) string) cli.ActionFunc {
	return calls(func(c *cli.Context, a *api) error {
		args := c.Args().Slice()
		if len(args) != len(names) {
			return usage(c, "write %s %s", c.Command.HelpName, strings.Join(names, " "))
		}
		var result removed
		answer, err := a.call(c.Context, http.MethodDelete, path(args), nil, &result)
		if err != nil {
			return err
		}
		if result.LogUntilMS > 0 && result.Messages > 0 && !c.Bool("json") {
			fmt.Fprintf(c.App.ErrWriter, "the log may still hold the messages until %s\n", localTime(result.LogUntilMS))
		}
		return printAnswer(c, answer, result.text())
	})
}

// manageUserCommands are the commands of imgo users that change something.
func manageUserCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name:      "kick",
			Usage:     "close a user's sessions",
			ArgsUsage: "USER",
			Description: "imgo users kick 123\n" +
				"imgo users kick 123 --device phone --reason \"signed out\"\n\n" +
				"Messages that wait stay.",
			Flags: withAPI(
				&cli.StringFlag{Name: "device", Usage: "only the sessions of this `device`"},
				&cli.StringFlag{Name: "session", Usage: "only this session: its `name` or key"},
				&cli.StringFlag{Name: "reason", Usage: "the `text` that the client is told"},
				&cli.IntFlag{Name: "code", Usage: "the close code, 3000 to 4999", DefaultText: "3506: do not come back"},
				jsonFlag(),
			),
			Action: calls(kick),
		},
		{
			Name:      "read",
			Usage:     "tell that a user has read messages: no device gets them any more",
			ArgsUsage: "USER",
			Description: "imgo users read 123 --up-to 283242202310656\n" +
				"imgo users read 123 --id 283242202310656 --device phone\n\n" +
				"Clients of version 2 take the messages from the screen.",
			Flags: withAPI(
				&cli.StringFlag{Name: "up-to", Usage: "all messages up to the one with this `id`"},
				&cli.StringSliceFlag{Name: "id", Usage: "the message with this `id`; may be given several times"},
				&cli.StringFlag{Name: "device", Usage: "the `device` that they were read on, for the event message.read"},
				jsonFlag(),
			),
			Action: calls(read),
		},
		{
			Name:      "forget",
			Usage:     "forget a device that does not come back: no message waits for it any more",
			ArgsUsage: "USER DEVICE",
			Description: "imgo users forget 123 phone\n" +
				"imgo users forget 123 \"\"\n\n" +
				"The device without a name stands for all sessions that named none.",
			Flags:  withAPI(jsonFlag()),
			Action: remove([]string{"USER", "DEVICE"}, func(args []string) string { return devicePath(args[0], args[1]) }),
		},
		{
			Name:        "purge",
			Usage:       "drop all messages that wait for a user",
			ArgsUsage:   "USER",
			Description: "imgo users purge 123",
			Flags:       withAPI(jsonFlag()),
			Action:      remove([]string{"USER"}, func(args []string) string { return userPath(args[0], "/messages") }),
		},
		{
			Name:        "erase",
			Usage:       "erase a user: tokens, sessions, waiting messages, devices and idempotency keys",
			ArgsUsage:   "USER",
			Description: "imgo users erase 123",
			Flags:       withAPI(jsonFlag()),
			Action:      remove([]string{"USER"}, func(args []string) string { return userPath(args[0], "") }),
		},
	}
}

func kick(c *cli.Context, a *api) error {
	path, err := ofUser("/kick")(c)
	if err != nil {
		return err
	}
	if c.IsSet("device") && c.IsSet("session") {
		return usage(c, "name --device or --session, and not both")
	}
	request := map[string]any{}
	for _, name := range []string{"device", "session", "reason"} {
		if c.IsSet(name) {
			request[name] = c.String(name)
		}
	}
	if c.IsSet("code") {
		request["code"] = c.Int("code")
	}
	var result struct {
		Sessions int `json:"sessions"`
	}
	answer, err := a.post(c.Context, path, request, &result)
	if err != nil {
		return err
	}
	return printAnswer(c, answer, "closing "+count(result.Sessions, "session"))
}

func read(c *cli.Context, a *api) error {
	path, err := ofUser("/read")(c)
	if err != nil {
		return err
	}
	request := map[string]any{}
	if c.IsSet("up-to") {
		request["up_to"] = c.String("up-to")
	}
	if c.IsSet("id") {
		request["ids"] = c.StringSlice("id")
	}
	if len(request) == 0 {
		return usage(c, "which messages? Write --up-to or --id, with the id that a push was answered with")
	}
	if c.IsSet("device") {
		request["device"] = c.String("device")
	}
	var result struct {
		Sessions int `json:"sessions"`
	}
	answer, err := a.post(c.Context, path, request, &result)
	if err != nil {
		return err
	}
	return printAnswer(c, answer, "telling "+count(result.Sessions, "session"))
}

// noticeList is the answer of GET /v1/notices.
type noticeList struct {
	Notices []struct {
		Seq    uint64 `json:"seq"`
		TimeMS int64  `json:"time_ms"`
		Kind   string `json:"kind"`
		User   string `json:"user"`
		Detail string `json:"detail"`
		Count  int    `json:"count"`
	} `json:"notices"`
	Last uint64 `json:"last"`
}

func (l *noticeList) write(w *tabwriter.Writer) {
	for _, n := range l.Notices {
		times := ""
		if n.Count > 1 {
			times = fmt.Sprintf(" (%d times)", n.Count)
		}
		fmt.Fprintf(w, "%d\t%s\t%s%s\t%s\t%s\n", n.Seq, localTime(n.TimeMS), n.Kind, times, orDash(n.User), n.Detail)
	}
}

// followPause is the time between two questions of imgo notices --follow.
const followPause = time.Second

func noticesCommand() *cli.Command {
	return &cli.Command{
		Name:  "notices",
		Usage: "show what happened to users' messages: dropped, lost, a device that had to make room",
		Description: "imgo notices\n" +
			"imgo notices --follow\n\n" +
			"A server holds its newest 1,000 notices in memory.",
		Flags: withAPI(
			&cli.Uint64Flag{Name: "after", Usage: "only notices with a higher `number`"},
			&cli.BoolFlag{Name: "follow", Usage: "go on until it is interrupted", DisableDefaultText: true},
			jsonFlag(),
		),
		Action: calls(notices),
	}
}

func notices(c *cli.Context, a *api) error {
	follow := c.Bool("follow")
	if follow {
		fmt.Fprintln(c.App.ErrWriter, "waiting for notices; Ctrl-C ends")
	}
	for after := c.Uint64("after"); ; {
		var answer noticeList
		raw, err := a.get(c.Context, fmt.Sprintf("/v1/notices?after=%d", after), &answer)
		switch {
		case c.Context.Err() != nil && follow:
			return nil
		case err != nil:
			return err
		case !c.Bool("json"):
			err = printTable(c, answer.write)
		case len(answer.Notices) > 0 || !follow:
			err = printLine(c, string(raw))
		}
		if err != nil || !follow || wait.Sleep(c.Context, followPause) != nil {
			return err
		}
		after = max(after, answer.Last)
	}
}
