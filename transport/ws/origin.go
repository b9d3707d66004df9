package ws

import (
	"fmt"
	"net/http"

	"imgo/internal/loopback"
)

// checkOrigin returns an error if a request may not connect because of where it comes
// from. An empty list of origins allows all.
func (l *Listener) checkOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if !l.local {
		if origin == "" || len(l.origins) == 0 || l.origins.Allows(origin) {
			return nil
		}
		return fmt.Errorf("origin %.100q is not allowed here", origin)
	}
	if err := loopback.Check(r, l.origins.AllowsHost); err != nil {
		return fmt.Errorf("without authentication only clients of this machine may connect: %w", err)
	}
	if origin == "" || loopback.Origin(origin) || l.origins.Allows(origin) {
		return nil
	}
	return fmt.Errorf("origin %.100q is not allowed: without authentication it has to be of this machine, or one of comet.ws_origins", origin)
}
