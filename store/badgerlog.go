package store

import (
	"strings"

	"github.com/rs/zerolog"
)

// badgerLog is Badger's logger on ours. What Badger calls information is of
// interest only to who debugs it.
type badgerLog struct{ log zerolog.Logger }

func (b badgerLog) Errorf(format string, args ...any) {
	b.log.Error().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}

func (b badgerLog) Warningf(format string, args ...any) {
	b.log.Warn().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}

func (b badgerLog) Infof(format string, args ...any) {
	b.log.Debug().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}

func (b badgerLog) Debugf(format string, args ...any) {
	b.log.Trace().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}
