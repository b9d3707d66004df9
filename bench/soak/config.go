package soak

import (
	"errors"
	"fmt"
	"time"
)

// Config describes one run. Short and Full return complete ones.
type Config struct {
	// Binary is the path of the imgo executable. Dir is an empty folder for its data and
	// log.
	Binary, Dir string
	// Seed determines all random choices. Their timing depends on the machine.
	Seed uint64

	// Goroutines makes the server use one goroutine for each connection instead of epoll.
	Goroutines bool

	Callers int // concurrent callers
	Users   int // users with two devices each; the server knows all of them before the first push
	Rooms   int // rooms of 10 users each
	Slow    int // devices that read slowly; their users get more and larger messages

	Kills int // kills with SIGKILL, a few of them during a start or a stop
	Terms int // restarts by SIGTERM
	// MinGap and MaxGap bound the time from a ready server to its next end.
	MinGap, MaxGap time.Duration
	// Pace bounds the time between two pushes of a caller.
	Pace time.Duration
	// Stay is the approximate time that a device stays connected. Away bounds the time
	// that it then stays offline.
	Stay, Away time.Duration

	// Settle bounds the time in which all accepted messages must arrive after the last
	// fault.
	Settle time.Duration
	// Limit bounds the whole run.
	Limit time.Duration

	// Progress, if not nil, receives a progress line every Every.
	Progress func(format string, args ...any)
	Every    time.Duration

	// Falsify falsifies the recorded history, to show that the check of the history finds
	// it.
	Falsify Falsify
}

// Falsify selects errors to record. Each is recorded once.
type Falsify struct {
	Lose   bool // a received and acknowledged message is not recorded
	Repeat bool // a message is recorded twice
	Swap   bool // two messages are recorded in the wrong order
}

// Short returns the run for the test suite, of about 15 seconds.
func Short() Config {
	return Config{
		Callers: 16, Users: 40, Rooms: 4, Slow: 2,
		Kills: 6, Terms: 1,
		MinGap: 400 * time.Millisecond, MaxGap: 1500 * time.Millisecond,
		Pace: 30 * time.Millisecond,
		Stay: 4 * time.Second, Away: 2 * time.Second,
		Settle: 30 * time.Second, Limit: 90 * time.Second,
		Every: 5 * time.Second,
	}
}

// Full returns the complete run, of about two minutes and at most three.
func Full() Config {
	return Config{
		Callers: 64, Users: 200, Rooms: 20, Slow: 4,
		Kills: 20, Terms: 4,
		MinGap: 500 * time.Millisecond, MaxGap: 6 * time.Second,
		Pace: 60 * time.Millisecond,
		Stay: 15 * time.Second, Away: 6 * time.Second,
		Settle: 45 * time.Second, Limit: 3 * time.Minute,
		Every: 5 * time.Second,
	}
}

// roomUsers is the number of users in a room.
const roomUsers = 10

func (c *Config) check() error {
	switch {
	case c.Binary == "" || c.Dir == "":
		return errors.New("Binary and Dir are missing")
	case c.Callers < 1 || c.Users < roomUsers || c.Rooms < 1:
		return fmt.Errorf("there must be a caller, a room and %d users", roomUsers)
	case c.Slow > c.Users:
		return errors.New("there are more slow devices than users")
	case c.MinGap <= 0 || c.MaxGap <= c.MinGap || c.Pace <= 0 || c.Stay <= 0 || c.Away <= 0 || c.Settle <= 0 || c.Limit <= 0:
		return errors.New("every time must be above 0, and MaxGap above MinGap")
	}
	if c.Progress == nil {
		c.Progress = func(string, ...any) {}
	}
	if c.Every <= 0 {
		c.Every = 5 * time.Second
	}
	return nil
}
