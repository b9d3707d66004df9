package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
)

const (
	// callTimeout bounds one call of the API: more than the server allows
	// itself for one.
	callTimeout = time.Minute
	// maxAnswer bounds an answer in bytes: that of a push to as many users as
	// one push may name is below it.
	maxAnswer = 64 << 20
	// defaultServer is where imgo listens by default.
	defaultServer = "http://127.0.0.1:7172"
)

// apiFlags are the flags of every command that calls the API.
func apiFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "server", Usage: "the server's HTTP `address` [$" + serverEnv + "]", DefaultText: defaultServer},
		&cli.StringFlag{Name: "api-key", Usage: "the `key` of its API, where it has one [$" + keyEnv + "]"},
	}
}

// The variables behind those flags.
const (
	serverEnv = "IMGO_SERVER"
	keyEnv    = "IMGO_API_KEY"
)

// given is a flag that stands at the command or before it, else the variable's
// value, else def. (The library would let the variable of an inner flag weigh
// more than the outer flag itself.)
func given(c *cli.Context, flag, variable, def string) string {
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

// withAPI adds the API's flags to a command's own.
func withAPI(flags ...cli.Flag) []cli.Flag { return append(flags, apiFlags()...) }

// jsonFlag makes a command answer programs.
func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print the server's answer as JSON", DisableDefaultText: true}
}

// api is the server's HTTP API.
type api struct {
	server *url.URL
	key    string
	http   *http.Client
}

// newAPI reads the flags, given to the command or before it.
func newAPI(c *cli.Context) (*api, error) {
	text := given(c, "server", serverEnv, defaultServer)
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	server, err := url.Parse(text)
	if err != nil || server.Host == "" || server.Scheme != "http" && server.Scheme != "https" {
		return nil, usage(c, "--server %q is no web address: write it like %s", text, defaultServer)
	}
	server.Path = strings.TrimRight(server.Path, "/")
	return &api{server: server, key: given(c, "api-key", keyEnv, ""), http: &http.Client{}}, nil
}

// close lets go of idle connections.
func (a *api) close() { a.http.CloseIdleConnections() }

// apiError is the server's own word on what went wrong.
type apiError struct {
	Status  int
	Code    string `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field"`
}

func (e *apiError) Error() string {
	message := e.Message
	if message == "" {
		message = fmt.Sprintf("the server answered %d", e.Status)
	}
	// The message has the field's name in front where the server put it there.
	if e.Field != "" && !strings.HasPrefix(message, e.Field) {
		message = e.Field + " " + message
	}
	switch e.Status {
	case http.StatusUnauthorized:
		message += "; give the API key with --api-key or IMGO_API_KEY"
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		message += "; try again in a moment"
	case http.StatusInsufficientStorage:
		message += "; make room on the server's disk, it recovers by itself"
	}
	if e.Code != "" {
		message += " (" + e.Code + ")"
	}
	return message
}

// call sends body (nil: none) and gives back the answer's JSON. An error says
// what was attempted and, where it is known, the mend.
func (a *api) call(ctx context.Context, method, path string, body any, header http.Header) ([]byte, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		content = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, a.server.String()+path, content)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if a.key != "" {
		request.Header.Set("Authorization", "Bearer "+a.key)
	}
	response, err := a.http.Do(request)
	if err != nil {
		return nil, a.unreachable(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer of %s: %w", a.server, err)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("the answer of %s is larger than %d MiB", a.server, maxAnswer>>20)
	}
	if response.StatusCode >= 300 {
		return nil, a.refused(response, answer)
	}
	if !json.Valid(answer) {
		return nil, a.stranger(response)
	}
	return bytes.TrimSpace(answer), nil
}

// refused reads an error that the server answered with.
func (a *api) refused(response *http.Response, answer []byte) error {
	var body struct {
		Error *apiError `json:"error"`
	}
	if json.Unmarshal(answer, &body) != nil || body.Error == nil {
		return a.stranger(response)
	}
	body.Error.Status = response.StatusCode
	return body.Error
}

// stranger is the error of an answer that imgo would not give.
func (a *api) stranger(response *http.Response) error {
	return fmt.Errorf("%s answered %s, but not as imgo does: is --server right? It is the HTTP address, by default %s",
		a.server, response.Status, defaultServer)
}

// unreachable is the error of a server that does not answer.
func (a *api) unreachable(err error) error {
	var urlError *url.Error
	if errors.As(err, &urlError) {
		err = urlError.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer within %s", a.server, callTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot reach %s: connection refused; is imgo running? Start it with `imgo`, or name its address with --server or IMGO_SERVER", a.server)
	}
	return fmt.Errorf("cannot reach %s: %w; is --server right?", a.server, err)
}

// get asks and reads the answer into result.
func (a *api) get(ctx context.Context, path string, result any) ([]byte, error) {
	answer, err := a.call(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return nil, err
	}
	return answer, a.read(answer, result)
}

// post sends body and reads the answer into result.
func (a *api) post(ctx context.Context, path string, body, result any, header http.Header) ([]byte, error) {
	answer, err := a.call(ctx, http.MethodPost, path, body, header)
	if err != nil {
		return nil, err
	}
	return answer, a.read(answer, result)
}

func (a *api) read(answer []byte, result any) error {
	if err := json.Unmarshal(answer, result); err != nil {
		return fmt.Errorf("read the answer of %s: %w", a.server, err)
	}
	return nil
}
