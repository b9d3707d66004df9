package members

import (
	"bytes"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// refusalPeriod is how often gossip with another secret is logged.
const refusalPeriod = 10 * time.Second

// logWriter takes memberlist's lines to zerolog.
type logWriter struct {
	log     zerolog.Logger
	refused zerolog.Logger
}

func newLogWriter(log zerolog.Logger) *logWriter {
	return &logWriter{log: log, refused: log.Sample(&zerolog.BurstSampler{Burst: 1, Period: refusalPeriod})}
}

// Write takes one line of memberlist, "[LEVEL] memberlist: text".
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
		level = zerolog.DebugLevel // memberlist goes on for a moment after its end
	}
	if otherSecret(text) {
		w.refused.Error().Str("gossip", text).
			Msg("gossip of a node with another cluster.secret (or without one) is refused: give all nodes of the cluster the same")
		return len(line), nil
	}
	w.log.WithLevel(level).Str("gossip", text).Msg("gossip")
	return len(line), nil
}

// otherSecret says whether a line of memberlist tells of a node whose secret is
// another.
func otherSecret(text string) bool {
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

// metrics of the membership.
type metrics struct {
	changes *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, m *Members) (*metrics, error) {
	x := &metrics{changes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "imgo_members_changes_total", Help: "What was heard of nodes, by kind: join, update, leave (left or died).",
	}, []string{"kind"})}
	if reg == nil {
		return x, nil
	}
	for _, c := range []prometheus.Collector{
		x.changes,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "imgo_members_nodes", Help: "Nodes that this node knows to be alive, itself included.",
		}, func() float64 { return float64(len(m.Snapshot().Nodes)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "imgo_members_mismatches", Help: "Nodes that have another idea of the log than this one: none should.",
		}, func() float64 { return float64(len(m.Snapshot().Mismatches)) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return x, nil
}
