package members

import (
	"bytes"
	"net"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// refusalPeriod is the shortest time between two log lines about gossip with another
// secret.
const refusalPeriod = 10 * time.Second

// logWriter writes memberlist's log lines to zerolog.
type logWriter struct {
	log     zerolog.Logger
	refused zerolog.Logger
}

func newLogWriter(log zerolog.Logger) *logWriter {
	return &logWriter{log: log, refused: log.Sample(&zerolog.BurstSampler{Burst: 1, Period: refusalPeriod})}
}

// Write writes one line of memberlist, "[LEVEL] memberlist: text".
func (w *logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := zerolog.InfoLevel
	for prefix, l := range map[string]zerolog.Level{
		"[DEBUG] ": zerolog.DebugLevel, "[INFO] ": zerolog.InfoLevel, "[WARN] ": zerolog.WarnLevel, "[ERR] ": zerolog.ErrorLevel,
	} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			text, level = rest, l
			break
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if strings.Contains(text, net.ErrClosed.Error()) {
		level = zerolog.DebugLevel // memberlist uses its sockets for a moment after its end
	}
	if isOtherSecret(text) {
		w.refused.Error().Str("gossip", text).
			Msg("gossip of a node with another cluster.secret (or without one) is refused: give all nodes of the cluster the same")
		return len(line), nil
	}
	w.log.WithLevel(level).Str("gossip", text).Msg("gossip")
	return len(line), nil
}

// isOtherSecret reports whether a line of memberlist is about a node with another
// secret.
func isOtherSecret(text string) bool {
	for _, s := range []string{
		"Decrypt packet failed", "o installed keys could decrypt",
		"state is encrypted and encryption is not configured", "encryption is configured but remote state is not encrypted",
	} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}
