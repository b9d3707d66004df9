package router

import (
	"fmt"
	"reflect"
	"time"

	"imgo/internal/settings"
	"imgo/roles/router/mailbox"
)

// SessionsPolicy is what happens when a user has as many sessions as allowed and
// another one comes.
type SessionsPolicy string

// The policies.
const (
	// RefuseSession answers the new session with envelope.ErrTooMany.
	RefuseSession SessionsPolicy = "refuse"
	// CloseOldestSession closes the user's oldest session.
	CloseOldestSession SessionsPolicy = "close_oldest"
)

// DevicesPolicy is what happens when a user has as many devices as allowed and
// another one comes. A connected device never makes room.
type DevicesPolicy string

// The policies.
const (
	// RefuseDevice refuses the new device with envelope.ErrTooManyDevices.
	RefuseDevice DevicesPolicy = "refuse"
	// ReplaceDevice forgets the device that is offline for the longest time, and refuses
	// the new one only if all are connected.
	ReplaceDevice DevicesPolicy = "replace"
)

// Config is a router's settings. Start from DefaultConfig. The embedded structs
// are its part of the settings file.
type Config struct {
	SessionLimits
	MailboxLimits
	WatchTimes

	// Presence is section [presence].
	Presence Presence
	// BacklogMessages and BacklogBytes bound one answer to a catch-up where the
	// question does not.
	BacklogMessages int `default:"1000"`
	BacklogBytes    int `default:"131072"`
	// WatchMax is the longest time between two reminders to a client that does
	// not acknowledge.
	WatchMax time.Duration `default:"1m"`
	// CometTimeout is how long after a comet's last sign of life its sessions
	// leave the table (I6 asks for less than 10 s). A node sets it to three times
	// delivery.announce_interval.
	CometTimeout time.Duration `default:"6s"`
	// FlushInterval is how often changes are written behind to the store. A
	// message that is acknowledged within one never touches the disk.
	FlushInterval time.Duration `default:"500ms"`
	// FlushBytes writes earlier when so many bytes are waiting to be written.
	FlushBytes int `default:"8388608"`
	// IdleMailboxes bounds the mailboxes of each partition that stay in
	// memory though their users have no session.
	IdleMailboxes int `default:"4096"`
	// Repeats is for how long after a record a copy of it may come, since its append was tried again. The
	// records of that time before the stored position are read at the start, to know their ids again. 0 for a log
	// that never doubles a record.
	Repeats time.Duration
	// Retention is how long the kept log keeps a record. 0 means for ever, or that the
	// log lives on the disk of the mailboxes and has no other writer. Devices
	// are put into the log again at about half of it, so that a rebuild knows
	// those that were not seen for longer.
	Retention time.Duration
	// LoseAfter is how long a partition that belongs to another router now is
	// still followed and answered for.
	LoseAfter time.Duration `default:"5s"`
	// CleanAfter is how long the mailboxes of a partition that belongs to
	// another router stay on the disk: one that comes back within it resumes
	// where it was. At least LoseAfter.
	CleanAfter time.Duration `default:"1h"`
	// EventsSource is the source of all events.
	EventsSource string `default:"imgo"`

	// Faults leaves rules out, for tests.
	Faults Faults
}

// SessionLimits is router's part of section [limits].
type SessionLimits struct {
	SessionsPerUser int            `toml:"sessions_per_user" default:"64" unit:"sessions" min:"0" doc:"Sessions that a user may have at the same time."`
	SessionsPolicy  SessionsPolicy `toml:"sessions_policy" default:"close_oldest" choices:"refuse,close_oldest" doc:"What happens to one session too many. refuse turns the new one away (3504). close_oldest closes the\noldest one (3504). A client of imgo 2016 or goim comes back all the same. So if such clients close each other, new\nones are refused for a time that grows to an hour."`
	RoomsPerUser    int            `toml:"rooms_per_user" default:"100" unit:"rooms" min:"1" max:"1000" doc:"Rooms that the API may put one user into (PUT /v1/rooms/{room}/users/{user}). They come\nbeside those that a session joins by itself."`
}

// MailboxLimits is router's part of section [kept].
type MailboxLimits struct {
	MailboxLength  int            `toml:"mailbox_length" default:"1000" unit:"messages" min:"1" max:"1000000" doc:"Messages that may wait for one user."`
	MailboxPolicy  mailbox.Policy `toml:"mailbox_policy" default:"drop_oldest" choices:"drop_oldest,refuse_newest" doc:"What happens to one message too many: drop_oldest drops the oldest one, counted and reported, and the push's answer\nsays so (dropped); refuse_newest refuses the push for this user (507, mailbox_full)."`
	CacheBytes     int            `toml:"cache" default:"32MiB" unit:"size" min:"0" max:"64GiB" doc:"How many bytes of the waiting messages on the disk may be in memory as well, for clients that come back\nsoon. The users who were served longest ago make room first. 0: none."`
	DevicesPerUser int            `toml:"devices_per_user" default:"64" unit:"devices" min:"1" max:"64" doc:"Devices that a user may have, connected or not; sessions that name no device share one."`
	DevicesPolicy  DevicesPolicy  `toml:"devices_policy" default:"replace" choices:"refuse,replace" doc:"What happens to one device too many: replace forgets the one that is offline for the longest time, which is counted\nand reported; refuse turns the new one away (3510). A connected device is never forgotten: if all are, the new one\nis turned away."`
	DeviceExpiry   time.Duration  `toml:"device_expiry" default:"720h" unit:"duration" min:"1m" doc:"A device not seen for this long is forgotten, and messages no longer wait for it."`
	IdempotencyTTL time.Duration  `toml:"idempotency_ttl" default:"24h" unit:"duration" min:"1m" doc:"How long a push's Idempotency-Key is remembered; at most retention."`
}

// WatchTimes is router's part of section [delivery].
type WatchTimes struct {
	WatchInterval time.Duration `toml:"watch_interval" default:"1s" unit:"duration" min:"50ms" max:"1m" doc:"How often the owner of a mailbox looks for sessions that missed something."`
	WatchAfter    time.Duration `toml:"watch_after" default:"3s" unit:"duration" min:"50ms" max:"10m" doc:"How long a message may be unacknowledged before the owner says so to the session's comet."`
}

// Presence is section [presence].
type Presence struct {
	Events bool          `toml:"events" doc:"Whether user.online and user.offline are told, as events. GET /v1/users/{user} says at any time who is\nonline. Every node that runs router needs the same setting."`
	Grace  time.Duration `toml:"grace" default:"5s" unit:"duration" min:"0s" max:"10m" doc:"How long a user has no connection before it is told to be offline. One that is back within it is told nothing."`
}

// seenEvery returns how often a device that stays connected is noted as seen: often enough that it never expires.
func (cfg *Config) seenEvery() time.Duration { return min(maxSeenEvery, cfg.DeviceExpiry/4) }

// DefaultConfig returns a Config with every default.
func DefaultConfig() Config { return settings.Default[Config]() }

// checkPolicies returns an error if a policy is none of the choices of its setting.
func (cfg *Config) checkPolicies() error {
	v := reflect.ValueOf(cfg).Elem()
	for _, field := range settings.Fields(v.Type()) {
		if field.Choices == nil {
			continue
		}
		if wrong, fix := field.Check(v.FieldByIndex(field.Index)); wrong != "" {
			return fmt.Errorf("%s %s, %s", field.Name, wrong, fix)
		}
	}
	return nil
}
