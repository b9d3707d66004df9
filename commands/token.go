package commands

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"imgo/clients/go/pushapi"
)

// tokenRequest is the body of POST /v1/tokens.
type tokenRequest struct {
	User   string `json:"user"`
	TTL    string `json:"ttl,omitempty"`
	Token  string `json:"token,omitempty"`
	Single bool   `json:"single,omitempty"`
}

// newToken makes a token through the API.
func (a *api) newToken(ctx context.Context, request tokenRequest) (made pushapi.Token, answer []byte, err error) {
	answer, err = a.post(ctx, "/v1/tokens", request, &made)
	if err != nil {
		return made, nil, fmt.Errorf("make a token: %w", err)
	}
	return made, answer, nil
}

// revoke revokes one token, or all tokens of a user. Exactly one of token and user is not empty. It
// returns the number of revoked tokens.
func (a *api) revoke(ctx context.Context, token, user string, closeSessions bool) (int, []byte, error) {
	request := map[string]any{"close": closeSessions}
	if token != "" {
		request["token"] = token
	} else {
		request["user"] = user
	}
	var result struct {
		Revoked int `json:"revoked"`
	}
	answer, err := a.post(ctx, "/v1/tokens/revoke", request, &result)
	if err != nil {
		return 0, nil, fmt.Errorf("revoke: %w", err)
	}
	return result.Revoked, answer, nil
}

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "make, list or revoke the tokens that clients connect with",
		Subcommands: []*cli.Command{
			{
				Name:  "new",
				Usage: "make a token for a user and print it",
				Description: "imgo token new --user 123\n" +
					"imgo token new --user 123 --ttl 24h --json\n" +
					"TOKEN=$(imgo token new --user 123)\n\n" +
					"The token is shown only once, because the server keeps only its hash.",
				Flags: withAPI(
					&cli.StringFlag{Name: "user", Usage: "the user of the token, a `name` of 1 to 128 bytes"},
					&cli.GenericFlag{Name: "ttl", Value: new(duration), Usage: "how long the token is valid, a `duration` such as 24h",
						DefaultText: "without end"},
					&cli.StringFlag{Name: "token", Usage: "use this `text` as the token", DefaultText: "the server makes one"},
					&cli.BoolFlag{Name: "single", Usage: "revoke the user's other tokens", DisableDefaultText: true},
					jsonFlag(),
				),
				Action: calls(tokenNew),
			},
			{
				Name:        "list",
				Usage:       "list a user's valid tokens, without their text",
				ArgsUsage:   "USER",
				Description: "imgo token list 123",
				Flags:       withAPI(jsonFlag()),
				Action:      show(ofUser("/tokens"), (*userTokens).write),
			},
			{
				Name:      "revoke",
				Usage:     "revoke a token, or all tokens of a user",
				ArgsUsage: "TOKEN | --user USER",
				Description: "imgo token revoke TOKEN\n" +
					"imgo token revoke --user 123\n" +
					"imgo token revoke --user 123 --close=false    (sessions stay open)",
				Flags: withAPI(
					&cli.StringFlag{Name: "user", Usage: "revoke all tokens of this `user`"},
					&cli.BoolFlag{Name: "close", Usage: "also close the user's sessions", Value: true},
					jsonFlag(),
				),
				Action: calls(tokenRevoke),
			},
		},
	}
}

// userTokens is the answer of GET /v1/users/{user}/tokens.
type userTokens struct {
	User   string `json:"user"`
	Tokens []struct {
		CreatedMS int64 `json:"created_ms"`
		ExpiresMS int64 `json:"expires_ms"`
	} `json:"tokens"`
}

func (u *userTokens) write(w *tabwriter.Writer) {
	fmt.Fprintf(w, "user %s has %s\n", u.User, count(len(u.Tokens), "token"))
	if len(u.Tokens) > 0 {
		fmt.Fprintln(w, "\nMADE\tEXPIRES")
	}
	for _, t := range u.Tokens {
		expires := "never"
		if t.ExpiresMS != 0 {
			expires = localTime(t.ExpiresMS)
		}
		fmt.Fprintf(w, "%s\t%s\n", localTime(t.CreatedMS), expires)
	}
}

func tokenNew(c *cli.Context, a *api) error {
	user := c.String("user")
	switch {
	case user == "":
		return usage(c, "whose token? Write --user 123")
	case c.IsSet("ttl") && durationFlag(c, "ttl") == 0:
		return usage(c, "--ttl must be more than 0; leave it out for a token that does not expire")
	}
	request := tokenRequest{User: user, Token: c.String("token"), Single: c.Bool("single")}
	if ttl := durationFlag(c, "ttl"); ttl > 0 {
		request.TTL = ttl.String()
	}
	made, answer, err := a.newToken(c.Context, request)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printLine(c, string(answer))
	}
	expires := "it does not expire"
	if made.ExpiresMS != 0 {
		expires = "it expires at " + localTime(made.ExpiresMS)
	}
	fmt.Fprintf(c.App.ErrWriter, "a token for user %s; %s; connect with: imgo listen --token TOKEN\n", made.User, expires)
	return printLine(c, made.Token)
}

func tokenRevoke(c *cli.Context, a *api) error {
	text, user := c.Args().First(), c.String("user")
	switch {
	case c.Args().Len() > 1:
		return usage(c, "unexpected argument %q; name one token at a time", c.Args().Get(1))
	case (text == "") == (user == ""):
		return usage(c, "name a token, or a user with --user, and not both")
	}
	n, answer, err := a.revoke(c.Context, text, user, c.Bool("close"))
	if err != nil {
		return err
	}
	return printAnswer(c, answer, "revoked "+count(n, "token"))
}
