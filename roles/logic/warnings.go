package logic

import (
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
)

// warnings logs what goes wrong without failing a call, at most ten lines at
// once and one a second. Safe for concurrent use.
type warnings struct {
	logger zerolog.Logger
	limit  *rate.Limiter
}

func newWarnings(logger zerolog.Logger) *warnings {
	return &warnings{logger: logger, limit: rate.NewLimiter(rate.Every(time.Second), 10)}
}

func (w *warnings) log(err error, message string) {
	if w.limit.Allow() {
		w.logger.Warn().Err(err).Msg(message)
	}
}

func (w *warnings) event(kind, user, detail string) {
	if w.limit.Allow() {
		w.logger.Warn().Str("user", user).Str("event", kind).Str("detail", detail).Msg("event")
	}
}
