package imgoclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"imgo/clients/go/raw"
)

// State is what a Client does at the moment.
type State string

// The states of a Client.
const (
	Idle       State = "idle"       // Run was not called yet
	Connecting State = "connecting" // from the token to the auth reply
	Live       State = "live"       // the server has accepted the client
	Waiting    State = "waiting"    // between two attempts to connect
	Closed     State = "closed"     // Run has ended or is about to
)

// Session describes a connection that the server has accepted.
type Session struct {
	// ID is the name of the session at the server.
	ID string
	// User is the user whom the token names.
	User string
	// Heartbeat is the interval at which the client sends heartbeats.
	Heartbeat time.Duration
	// Pending is the number of kept messages that were waiting for the device.
	Pending int
	// ExpiresIn is how long the token was still good. 0 means that it does not end.
	ExpiresIn time.Duration
	// Rooms are the rooms that the backend has put the user into.
	Rooms []string
}

// StateChange is the event of a new state.
type StateChange struct {
	State State
	// Session is set in the state Live.
	Session Session
	// RetryIn is the time until the next attempt, in the state Waiting.
	RetryIn time.Duration
	// CloseCode is the server's code for the end of the connection, or 0. Reason is for people. Both are
	// for the states Waiting and Closed.
	CloseCode int
	Reason    string
	// Failed reports whether the server has refused the client for good, in the state Closed.
	Failed bool
	// Err is why the last attempt or connection failed, or nil.
	Err error
}

// RoomChange says that the server has put this session into a room, or has taken it out, or has not
// let it in when it connected.
type RoomChange struct {
	Room   string
	Joined bool
	// Code says why it was not let in ("forbidden", "too_many", "unavailable"). It is empty otherwise.
	Code string
	// Reason is for people.
	Reason string
}

// Published is the event of a message that has left the outbox.
type Published struct {
	// Number is what Publish returned.
	Number uint64
	// Body is the body of the reply. It is empty if the reply was lost and a later session told that the
	// message has arrived.
	Body []byte
	// Err is nil if the message has arrived. It is ErrDenied if the server has refused it for good.
	Err *Error
}

// Dismiss says that the user has read messages on another device or in another session.
type Dismiss struct {
	// IDs are messages that were read.
	IDs []uint64
	// UpTo is not 0 if all messages with ids up to it were read as well.
	UpTo uint64
}

// eventQueue is the number of events that may wait for a callback.
const eventQueue = 256

// events calls the callbacks for events, one at a time and in order, on a goroutine of its own. If a
// callback is slow and eventQueue events wait, the client waits too.
type events struct {
	calls  chan func()
	ending chan struct{}
	done   chan struct{}
	// late is closed when CloseTimeout has passed since the end of Run began. No goroutine waits for room in calls then.
	late     chan struct{}
	lateOnce sync.Once
}

func newEvents() *events {
	e := &events{
		calls: make(chan func(), eventQueue), ending: make(chan struct{}), done: make(chan struct{}), late: make(chan struct{}),
	}
	go e.run()
	return e
}

func (e *events) run() {
	defer close(e.done)
	for {
		select {
		case call := <-e.calls:
			call()
			continue
		case <-e.ending:
		}
		for len(e.calls) > 0 {
			call := <-e.calls
			call()
		}
		return
	}
}

// add has a callback called. After end it does nothing. It drops the event if there is no room in time at the end of Run.
func (e *events) add(call func()) {
	select {
	case e.calls <- call:
		return
	default:
	}
	select {
	case e.calls <- call:
	case <-e.done:
	case <-e.late:
	}
}

// beginEnd bounds from now on how long add waits. Only the first call counts.
func (e *events) beginEnd(limit time.Duration) {
	e.lateOnce.Do(func() { time.AfterFunc(limit, func() { close(e.late) }) })
}

// end waits for the callbacks of all events so far, and at most for limit.
func (e *events) end(limit time.Duration) {
	close(e.ending)
	sleep(context.Background(), limit, e.done)
}

// change makes a state the present one and tells the application. announced, if not nil, is closed after the
// callback.
func (c *Client) change(e *events, to StateChange, announced chan struct{}) {
	if to.Err != nil {
		to.CloseCode, to.Reason = reasonOf(to.Err)
	}
	c.mu.Lock()
	c.state = to.State
	c.mu.Unlock()
	switch to.State {
	case Live:
		c.log(slog.LevelInfo, "connected: session %s, %d kept messages follow", to.Session.ID, to.Session.Pending)
	case Waiting:
		c.log(slog.LevelInfo, "not connected: %s; the next attempt is in %s", to.Reason, to.RetryIn.Round(time.Millisecond))
	case Closed:
		if to.Failed {
			c.log(slog.LevelWarn, "refused for good: %s (%d)", to.Reason, to.CloseCode)
		} else {
			c.log(slog.LevelInfo, "closed")
		}
	}
	e.add(func() {
		if c.cfg.OnState != nil {
			c.cfg.OnState(to)
		}
		if announced != nil {
			close(announced)
		}
	})
}

// reasonOf returns the server's close code and reason, or 0 and the text of the error.
func reasonOf(err error) (code int, reason string) {
	var closed *raw.CloseError
	if errors.As(err, &closed) {
		return closed.Code, closed.Reason
	}
	return 0, err.Error()
}

// report tells of an error that no call returns.
func (c *Client) report(e *events, err *Error) {
	c.log(slog.LevelWarn, "%s: %v", err.Code, err)
	if c.cfg.OnError != nil {
		e.add(func() { c.cfg.OnError(err) })
	}
}

// roomChanged takes note of what the server has done, and tells the application.
func (c *Client) roomChanged(e *events, change RoomChange) {
	// A server that could not decide may do so next time.
	if !change.Joined && change.Code != codeUnavailable {
		c.forgetRoom(change.Room)
	}
	c.log(slog.LevelDebug, "room %q: joined %t: %s", change.Room, change.Joined, change.Reason)
	if c.cfg.OnRoom != nil {
		e.add(func() { c.cfg.OnRoom(change) })
	}
}

func (c *Client) log(level slog.Level, format string, args ...any) {
	if c.cfg.Log != nil {
		c.cfg.Log(level, fmt.Sprintf(format, args...))
	}
}
