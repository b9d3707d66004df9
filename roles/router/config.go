package router

import (
	"time"
)

// Policy is what happens when a user has as many sessions as allowed and
// another one comes.
type Policy string

// The policies.
const (
	// RefuseNewest answers the new session with envelope.ErrTooMany.
	RefuseNewest Policy = "refuse"
	// CloseOldest closes the user's oldest session.
	CloseOldest Policy = "close_oldest"
)

// Config are router's settings. DefaultConfig has sane ones.
type Config struct {
	// MailboxLength bounds the messages that wait for one user; past it the
	// oldest is dropped, counted and reported as an event.
	MailboxLength int
	// DeviceExpiry is how long a device is remembered after it was last seen.
	DeviceExpiry time.Duration
	// IdempotencyTTL is how long an idempotency key is remembered.
	IdempotencyTTL time.Duration
	// SessionsPerUser bounds a user's sessions; 0: no bound.
	SessionsPerUser int
	// SessionsPolicy says what happens at the bound.
	SessionsPolicy Policy
	// WindowMessages and WindowBytes bound one answer to a catch-up where the
	// question does not.
	WindowMessages, WindowBytes int
	// WatchInterval is how often the owner looks for messages that are still
	// pending WatchAfter after their push. A client that does not acknowledge
	// is told at growing intervals, up to WatchMax.
	WatchInterval, WatchAfter, WatchMax time.Duration
	// CometTimeout is how long after a comet's last sign of life its sessions
	// leave the table (I6 asks for less than 10 s).
	CometTimeout time.Duration
	// FlushInterval is how often changes are written behind to the store. A
	// message that is acknowledged within one never touches the disk.
	FlushInterval time.Duration
	// FlushBytes writes earlier when so much is waiting to be written.
	FlushBytes int
	// CacheBytes bounds the bodies that are held in memory though the store has
	// them; the partitions that are here share it evenly. 0: none.
	CacheBytes int
	// IdleMailboxes bounds the mailboxes of each partition that stay in
	// memory though their users have no session.
	IdleMailboxes int
	// DedupeWarm is how many records before the stored position are read at
	// start to know their ids again. 0 for a log that never doubles a record.
	DedupeWarm int
	// Retention is how long the kept log keeps a record; 0: for ever. Devices
	// are put into the log again at about half of it, so that a rebuild knows
	// those that were not seen for longer.
	Retention time.Duration
	// LoseAfter is how long a partition that belongs to another router now is
	// still followed and answered for.
	LoseAfter time.Duration
	// CleanAfter is how long the mailboxes of a partition that belongs to
	// another router stay on the disk: one that comes back within it resumes
	// where it was. At least LoseAfter.
	CleanAfter time.Duration
	// Without leaves rules out, so that a test can prove what they are for.
	// No setting reaches it.
	Without Without
}

// Without names the rules that a test may leave out.
type Without struct {
	Watch    bool // the owner's watch
	Applied  bool // answer only for what was applied
	RecordID bool // void a record that was applied before
}

// DefaultConfig are the defaults.
func DefaultConfig() Config {
	return Config{
		MailboxLength:   1000,
		DeviceExpiry:    30 * 24 * time.Hour,
		IdempotencyTTL:  24 * time.Hour,
		SessionsPerUser: 64,
		SessionsPolicy:  CloseOldest,
		WindowMessages:  1000,
		WindowBytes:     128 << 10,
		WatchInterval:   time.Second,
		WatchAfter:      3 * time.Second,
		WatchMax:        time.Minute,
		CometTimeout:    6 * time.Second,
		FlushInterval:   500 * time.Millisecond,
		FlushBytes:      8 << 20,
		CacheBytes:      32 << 20,
		IdleMailboxes:   4096,
		LoseAfter:       5 * time.Second,
		CleanAfter:      time.Hour,
	}
}
