package httpapi

import (
	stdlog "log"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"imgo/roles/logic/httpapi/lane"
)

// NewServer is a server with the deadlines that this API needs: a
// caller that sends slowly, or does not read its answer, is cut off. The node
// listens, calls Serve and ends it with Shutdown; h is (or leads to)
// API.Handler. Pushes have a lane of their own.
func NewServer(h http.Handler, log zerolog.Logger) *lane.Server {
	return lane.New(&http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		// A body of the default limit (16 MiB) at 2 Mbit/s.
		ReadTimeout: 75 * time.Second,
		// Reading and the handler's own bound (Config.Timeout), and some
		// more for the answer to be read.
		WriteTimeout: 150 * time.Second,
		IdleTimeout:  2 * time.Minute,
		// goim's callers name thousands of users and keys in the query.
		MaxHeaderBytes: http.DefaultMaxHeaderBytes,
		ErrorLog:       stdlog.New(debugWriter{log}, "", 0),
	}, "/v1/push")
}

// debugWriter logs what net/http has to say of single connections (bad TLS
// hellos, unreadable requests): noise from outside, hence debug.
type debugWriter struct{ log zerolog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug().Str("role", "logic").Msg(strings.TrimSpace(string(p)))
	return len(p), nil
}
