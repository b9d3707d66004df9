package httpapi

import (
	stdlog "log"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// readTimeout is the time for one request's body, or for a large line of a
// stream: the default limit of a body (16 MiB) at 2 Mbit/s.
const readTimeout = 75 * time.Second

// NewServer returns a server with the deadlines that this API needs: a caller
// that sends slowly, or does not read its answer, is cut off. The node owns the
// listener, calls Serve and ends it with Shutdown. The handler h is
// API.Handler, or leads to it.
func NewServer(h http.Handler, log zerolog.Logger) *http.Server {
	return &http.Server{
		Handler:           nosniff(h),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       readTimeout,
		// Reading and the handler's own bound (Config.Timeout), and some
		// more for the answer to be read.
		WriteTimeout: 150 * time.Second,
		IdleTimeout:  2 * time.Minute,
		// goim's callers name thousands of users and keys in the query.
		MaxHeaderBytes: http.DefaultMaxHeaderBytes,
		ErrorLog:       stdlog.New(debugWriter{log}, "", 0),
	}
}

// nosniff forbids browsers to take an answer for another content type than it says.
func nosniff(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// debugWriter logs what net/http reports of single connections, such as bad
// TLS hellos and unreadable requests. Callers cause these lines, so their level
// is debug.
type debugWriter struct{ log zerolog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug().Str("role", "logic").Msg(strings.TrimSpace(string(p)))
	return len(p), nil
}
