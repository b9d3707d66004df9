package ws

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"imgo/internal/loopback"
)

// origins is the list of allowed origins, in lower case. An empty list allows
// all.
type origins []string

func parseOrigins(patterns []string) (origins, error) {
	list := make(origins, len(patterns))
	for i, p := range patterns {
		list[i] = strings.TrimSuffix(strings.ToLower(strings.TrimSpace(p)), "/")
		if _, err := path.Match(list[i], ""); err != nil || list[i] == "" {
			return nil, fmt.Errorf("origin pattern %q is malformed: want a host or scheme://host, with * as a wildcard", p)
		}
	}
	return list, nil
}

// checkOrigin returns an error if a request may not connect because of where it comes
// from.
func (l *Listener) checkOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if !l.local {
		return l.origins.check(origin)
	}
	err := loopback.Check(r, func(host string) bool { return len(l.origins) > 0 && l.origins.check("http://"+host) == nil })
	if err != nil {
		return fmt.Errorf("without authentication only clients of this machine may connect: %w", err)
	}
	if origin == "" || loopback.Origin(origin) || len(l.origins) > 0 && l.origins.check(origin) == nil {
		return nil
	}
	return fmt.Errorf("origin %.100q is not allowed: without authentication it has to be of this machine, or one of comet.ws_origins", origin)
}

// check returns an error if a request with this Origin header may not connect.
func (o origins) check(header string) error {
	if header == "" || len(o) == 0 {
		return nil
	}
	u, err := url.Parse(strings.ToLower(header))
	if err != nil || u.Host == "" {
		return fmt.Errorf("origin %.100q is not allowed: it names no host", header)
	}
	for _, pattern := range o {
		target := u.Host
		if strings.Contains(pattern, "://") {
			target = u.Scheme + "://" + u.Host
		}
		if ok, _ := path.Match(pattern, target); ok || pattern == "*" {
			return nil
		}
	}
	return fmt.Errorf("origin %.100q is not allowed here", header)
}
