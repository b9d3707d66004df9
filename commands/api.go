package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/clients/go/pushapi"
	"imgo/envelope"
)

const (
	// callTimeout bounds one call of the API. It is longer than the server's own limit for a call.
	callTimeout = time.Minute
	// maxAnswer bounds an answer, in bytes. The answer to a push with the largest number of users
	// is smaller.
	maxAnswer = 64 << 20
	// defaultServer is the default address of the HTTP API.
	defaultServer = "http://127.0.0.1:7172"
)

// apiFlags returns the flags of every command that calls the API.
func apiFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "server", Usage: "the server's HTTP `address` [$" + serverEnv + "]", DefaultText: defaultServer},
		&cli.StringFlag{Name: "api-key", Usage: "the `key` of its API, where it has one [$" + keyEnv + "]"},
	}
}

// The environment variables of these flags.
const (
	serverEnv = "IMGO_SERVER"
	keyEnv    = "IMGO_API_KEY"
)

// flagOrEnv returns the value of a flag at the command or before it, else the value of the
// environment variable, else def. The library would prefer the variable of an inner flag to the
// outer flag itself.
func flagOrEnv(c *cli.Context, flag, variable, def string) string {
	for _, at := range c.Lineage() {
		if at.Command != nil && at.IsSet(flag) {
			return at.String(flag)
		}
	}
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return def
}

// withAPI adds the flags of the API to those of a command.
func withAPI(flags ...cli.Flag) []cli.Flag { return append(flags, apiFlags()...) }

// jsonFlag returns the flag that selects JSON output.
func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print the server's answer as JSON", DisableDefaultText: true}
}

// api calls the HTTP API of the server and explains errors to a person at a terminal.
type api struct {
	*pushapi.Client
	server string
}

// newAPI returns an api for the flags at the command or before it.
func newAPI(c *cli.Context) (*api, error) {
	text := flagOrEnv(c, "server", serverEnv, defaultServer)
	client, err := pushapi.New(pushapi.Config{
		Servers: []string{text}, Key: flagOrEnv(c, "api-key", keyEnv, ""), Timeout: callTimeout, MaxAnswer: maxAnswer,
	})
	if err != nil {
		return nil, usage(c, "--server %q is no web address: write it like %s", text, defaultServer)
	}
	return &api{client, client.Servers()[0]}, nil
}

// calls returns the action of a command that calls the API.
func calls(do func(c *cli.Context, a *api) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		a, err := newAPI(c)
		if err != nil {
			return err
		}
		defer a.Close()
		return do(c, a)
	}
}

// host returns the host of the server.
func (a *api) host() string {
	u, _ := url.Parse(a.server) // newAPI has parsed it, so there is no error
	return u.Hostname()
}

// call sends body (nil means none), parses the answer into result and returns its JSON. An error
// says what failed and, if known, how to fix it.
func (a *api) call(ctx context.Context, method, path string, body, result any) ([]byte, error) {
	var answer json.RawMessage
	if err := a.Call(ctx, a.server, method, path, body, &answer); err != nil {
		return nil, a.explain(err)
	}
	answer = bytes.TrimSpace(answer)
	if err := json.Unmarshal(answer, result); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", a.server, err)
	}
	return answer, nil
}

// get sends a GET request and parses the answer into result.
func (a *api) get(ctx context.Context, path string, result any) ([]byte, error) {
	return a.call(ctx, http.MethodGet, path, nil, result)
}

// post sends body and parses the answer into result.
func (a *api) post(ctx context.Context, path string, body, result any) ([]byte, error) {
	return a.call(ctx, http.MethodPost, path, body, result)
}

// explain adds advice for a person to an error of a call.
func (a *api) explain(err error) error {
	var refused *pushapi.Error
	if errors.As(err, &refused) {
		return a.refused(refused)
	}
	var urlError *url.Error
	if !errors.As(err, &urlError) {
		return err
	}
	err = urlError.Err
	switch {
	case errors.Is(err, context.Canceled):
		return errInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer within %s", a.server, callTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot reach %s: connection refused; is imgo running? Start it with `imgo`, or name its address with "+
			"--server or IMGO_SERVER", a.server)
	}
	return fmt.Errorf("cannot reach %s: %w; is --server right?", a.server, err)
}

// refused explains an answer with an error status.
func (a *api) refused(e *pushapi.Error) error {
	if e.Code == "" {
		return fmt.Errorf("%s answered %d %s, but not as imgo does: is --server right? It is the HTTP address, by default %s",
			a.server, e.Status, http.StatusText(e.Status), defaultServer)
	}
	message := e.Message
	// In some messages of the server the name of the field comes first already.
	if e.Field != "" && !strings.HasPrefix(message, e.Field) {
		message = e.Field + " " + message
	}
	switch {
	case e.Status == http.StatusUnauthorized:
		message += "; give the API key with --api-key or IMGO_API_KEY"
	case e.Status == http.StatusServiceUnavailable, e.Status == http.StatusTooManyRequests:
		message += "; try again in a moment"
	case e.Code == string(envelope.CodeDiskFull):
		message += "; make room on the server's disk, it recovers by itself"
	}
	return fmt.Errorf("%s (%s)", message, e.Code)
}
