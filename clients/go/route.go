package imgoclient

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxOthers bounds the addresses that are tried before the configured one.
	maxOthers = 5
	// discoverTimeout bounds the question where to connect: the configured
	// address is there without it.
	discoverTimeout = 3 * time.Second
	// maxDiscovered bounds its answer, in bytes.
	maxDiscovered = 64 << 10
)

// route is where the next attempts go, one after another: what the server or
// the discovery named, then the configured address. It belongs to Run.
type route struct {
	client *Client
	list   []target
}

// next is where to connect now.
func (r *route) next(ctx context.Context) target {
	if len(r.list) == 0 {
		r.begin(r.client.discover(ctx))
	}
	to := r.list[0]
	r.list = r.list[1:]
	return to
}

// begin starts a round: the addresses that are of use, then the configured one.
func (r *route) begin(addresses []string) {
	r.list = nil
	for _, address := range addresses {
		if to, ok := r.client.target.other(address, r.client.cfg.TLS); ok && len(r.list) < maxOthers {
			r.list = append(r.list, to)
		}
	}
	r.list = append(r.list, r.client.target)
}

// ended notes how an attempt ended, and says whether the next address of the
// same round is still to be tried.
func (r *route) ended(accepted bool, err error) (more bool) {
	var closed *CloseError
	switch {
	case errors.As(err, &closed) && closed.Reconnect && len(closed.Addresses) > 0:
		r.begin(closed.Addresses)
		return false // servers that send clients to one another must not do so without end
	case accepted:
		r.list = nil
	}
	return len(r.list) > 0
}

// secure says whether the connection is encrypted.
func (t target) secure() bool {
	return t.network == "tcp" && t.tls != nil || strings.HasPrefix(t.address, "wss://")
}

// scheme is what its address begins with, or would.
func (t target) scheme() string {
	switch {
	case !t.secure():
		return t.network
	case t.network == "ws":
		return "wss"
	}
	return "tls"
}

// other is another address of the same transport, as a server names it: what
// it lacks (scheme, path) is this target's. An address without TLS is of no
// use where this one has TLS: the token would be sent in the clear.
func (t target) other(address string, config *tls.Config) (target, bool) {
	if !strings.Contains(address, "://") {
		address = t.scheme() + "://" + address
	}
	if t.network == "ws" {
		own, err := url.Parse(t.address)
		u, uerr := url.Parse(address)
		if err != nil || uerr != nil {
			return target{}, false
		}
		if u.Path == "" || u.Path == "/" {
			u.Path, u.RawQuery = own.Path, own.RawQuery
		}
		address = u.String()
	}
	to, err := parseTarget(address, config)
	if err != nil || to.network != t.network || t.secure() && !to.secure() {
		return target{}, false
	}
	return to, true
}

// discoverURL checks Config.Discover and completes it for the transport.
func discoverURL(discover string, t target) (string, error) {
	u, err := url.Parse(discover)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("Discover %q is no address: write http:// or https:// and the host of the API", discover)
	case t.secure() && u.Scheme != "https":
		return "", fmt.Errorf("Discover %q must be https://, since Address has TLS: who can change the answer would get the token", discover)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/nodes/best"
	}
	query := u.Query()
	query.Set("transport", t.network)
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// discover asks where to connect; nothing where that cannot be found out.
func (c *Client) discover(ctx context.Context) []string {
	if c.cfg.Discover == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, min(discoverTimeout, c.cfg.ConnectTimeout))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.discoverURL, nil)
	if err != nil {
		return nil
	}
	// No connection is kept: the next question may be hours away.
	transport := &http.Transport{TLSClientConfig: c.cfg.TLS, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	var best struct {
		Addresses []string `json:"addresses"`
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDiscovered))
	if err != nil || response.StatusCode != http.StatusOK || json.Unmarshal(body, &best) != nil {
		return nil
	}
	return best.Addresses
}
