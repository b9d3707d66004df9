package soak

import (
	"errors"
	"fmt"
	"time"
)

// Config is one run. Short and Full are whole ones.
type Config struct {
	// Binary is the imgo to run, and Dir an empty folder for its data and log.
	Binary, Dir string
	// Seed is of every choice that is made; the moments depend on the machine.
	Seed uint64

	// Goroutines has each connection of the server have a goroutine, where epoll
	// could wait for it.
	Goroutines bool

	Callers int // that push at the same time
	Users   int // with two devices each, all of them known before the first push
	Rooms   int // of 10 users each
	Slow    int // devices that read slowly; their users get more, and larger

	Kills int // kill -9, a few of them while the server starts or stops
	Terms int // restarts by SIGTERM
	// MinGap and MaxGap bound the time between a server that is ready and its
	// end.
	MinGap, MaxGap time.Duration
	// Pace is the longest that a caller waits between two pushes.
	Pace time.Duration
	// Stay is about how long a device stays before it goes offline by itself,
	// and Away the longest that it is away.
	Stay, Away time.Duration

	// Settle is how long what was accepted may take to arrive once all is well.
	Settle time.Duration
	// Limit bounds the whole run.
	Limit time.Duration

	// Progress, when not nil, is told every Every how things stand.
	Progress func(format string, args ...any)
	Every    time.Duration

	// Falsify spoils what is noted, to show that the judge finds it.
	Falsify Falsify
}

// Falsify says what to note wrongly, once each.
type Falsify struct {
	Lose   bool // a message that was received and acknowledged is not noted
	Repeat bool // a message is noted twice
	Swap   bool // two messages are noted in the wrong order
}

// Short is the run that is part of the tests: about 15 seconds.
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

// Full is the whole run: about two minutes, and three at the most.
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

// roomUsers is how many users are in a room.
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
