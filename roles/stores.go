package roles

import (
	"context"
	"errors"
	"time"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/tokenlog"
	"imgo/roles/router"
	"imgo/store"
)

// stores are the data folder of a process, and the log and the tokens, which outlive a core.
type stores struct {
	*process
	db   *store.DB // nil: no role of this process needs it
	live liveLog
	// tokens is nil if this process runs no logic.
	tokens *tokenlog.Tokens
}

// open opens the data folder.
func (s *stores) open() (err error) {
	s.db, err = store.Open(store.Options{
		Dir: s.cfg.DataDir, Reserve: int64(s.cfg.Disk.Reserve), Log: s.log, Metrics: s.metrics, Faults: s.opts.Faults.Store,
	})
	return err
}

// openLogs opens the topics of the log that is embedded in this process.
func (s *stores) openLogs() (of storage, err error) {
	live, err := store.NewLiveLog(store.LiveOptions{
		Partitions: int32(s.cfg.Live.Partitions), MaxBytes: s.cfg.Live.MaxBytes,
		Retention: s.cfg.Live.Retention, Metrics: s.metrics,
	})
	if err != nil {
		return of, err
	}
	s.live = live
	s.tokens = tokenlog.NewAlone(tokenlog.DefaultConfig(), store.NewTokens(s.db), s.log)
	// Ids that clients know must not be given out again, also if the directory is new, or is an older copy of itself.
	// No log of the past has taken more than a record each millisecond, in each partition, all the time.
	first := time.Now().UnixMilli()
	kept, err := store.OpenLog(s.db, store.LogOptions{
		Partitions: int32(s.cfg.Kept.Partitions), First: first, AppendFrom: first, Retention: s.cfg.Kept.Retention,
	})
	if err != nil {
		return of, err
	}
	of.kept = kept
	topic, err := store.OpenLog(s.db, store.LogOptions{
		Events: true, Partitions: kept.Partitions(), Generation: kept.Generation(), First: first,
		Retention: s.cfg.Events.Retention,
		TailBytes: eventsTailBytes,
	})
	if err != nil {
		return of, errors.Join(err, kept.Close())
	}
	of.events = topic
	return of, nil
}

// eventsTailBytes is how much of each partition of the embedded events log is in memory for readers.
const eventsTailBytes = 64 << 10

// close closes the live log and the data folder.
func (s *stores) close() {
	if s.live != nil {
		s.logClose(s.live.Close())
	}
	if s.db != nil {
		s.logClose(s.db.Close())
	}
}

// keptLog is the kept topic: embedded, or on Kafka.
type keptLog interface {
	logic.KeptLog
	router.KeptLog
	Run(ctx context.Context) error
	Close() error
}

// eventsLog is the events topic: embedded, or on Kafka.
type eventsLog interface {
	router.EventsLog
	Run(ctx context.Context) error
	Close() error
}

// liveLog is the live topic: in memory, or on Kafka.
type liveLog interface {
	logic.LiveLog
	router.LiveLog
	envelope.Log
	Run(ctx context.Context) error
	Close() error
}
