package imgoclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"imgo/clients/go/raw"
)

const (
	// maxOthers is the number of other addresses that are tried before the configured one.
	maxOthers = 5
	// discoverTimeout bounds the discovery request. The configured address needs no discovery.
	discoverTimeout = 3 * time.Second
	// maxDiscovered bounds the answer of the discovery, in bytes.
	maxDiscovered = 64 << 10
)

// route is the list of addresses for the next attempts: those of the server or the discovery, then
// the configured one. Only the goroutine of Run uses it.
type route struct {
	client *Client
	list   []raw.Target
	tried  bool // the attempt has used an address
}

// next returns the address of the next attempt. It asks the discovery when the list is empty.
func (r *route) next(ctx context.Context) raw.Target {
	if len(r.list) == 0 {
		r.begin(r.client.discover(ctx))
	}
	to := r.list[0]
	r.list, r.tried = r.list[1:], true
	return to
}

// begin starts a new round: first the usable addresses, then the configured one.
func (r *route) begin(addresses []string) {
	r.list = nil
	for _, address := range addresses {
		if to, ok := r.client.target.Other(address); ok && len(r.list) < maxOthers {
			r.list = append(r.list, to)
		}
	}
	r.list = append(r.list, r.client.target)
}

// ended records the end of an attempt. It reports whether the attempt has used an address and the round has more, and
// whether the server has just named others.
func (r *route) ended(accepted bool, err error) (more, others bool) {
	tried := r.tried
	r.tried = false
	var closed *raw.CloseError
	switch {
	case errors.As(err, &closed) && closed.Reconnect && len(closed.Addresses) > 0:
		r.begin(closed.Addresses)
		return false, len(r.list) > 1
	case accepted:
		r.list = nil
	}
	return tried && len(r.list) > 0, false
}

// discoverURL checks Config.Discover and adds the path and the transport.
func discoverURL(discover string, t raw.Target) (string, error) {
	u, err := url.Parse(discover)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", invalid("Discover %q is no address: write http:// or https:// and the host of the API", discover)
	case t.Secure() && u.Scheme != "https":
		return "", invalid("Discover %q must be https://, since Address has TLS: who can change the answer would get the token", discover)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/nodes/best"
	}
	query := u.Query()
	query.Set("transport", t.Transport())
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// discover returns the addresses of the best nodes, or nil if the API does not give any.
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
	// Do not keep the connection. The next request may be hours away.
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
