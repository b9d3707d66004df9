package model_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/internal/events"
)

// presenceGrace is how long a user is away before it is told to be offline.
const presenceGrace = 30 * time.Millisecond

// leave ends the sessions of a user.
func (w *world) leave(user string) {
	for _, c := range w.clients {
		if c.user == user {
			c.disconnect()
		}
	}
}

// leaveSome has some users leave, and the others stay connected while the routers tell so.
func (w *world) leaveSome() {
	if !w.p.presence {
		return
	}
	// Two routers that own the same for ever, and have other sessions, would never agree.
	w.rings[1].set()
	for _, user := range users {
		if w.dice.n(2) == 0 {
			w.gone = append(w.gone, user)
			w.leave(user)
		}
	}
	for range 60 {
		for _, c := range w.clients {
			if !w.hasLeft(c.user) {
				c.connect()
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) hasLeft(user string) bool {
	for _, gone := range w.gone {
		if gone == user {
			return true
		}
	}
	return false
}

// judgePresence returns an error unless each user is told to be online and offline in turn, with epochs that grow, and
// at last what is true.
func (w *world) judgePresence(list []string) error {
	if !w.p.presence {
		return nil
	}
	online, last := make(map[string]bool), make(map[string]uint64)
	for _, text := range list {
		var e struct {
			Type string
			Data struct{ User, Epoch string }
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			return err
		}
		if t := events.Type(e.Type); t != events.Online && t != events.Offline {
			continue
		}
		user, is := e.Data.User, events.Type(e.Type) == events.Online
		epoch, err := strconv.ParseUint(e.Data.Epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("epoch of %s: %w", text, err)
		}
		if epoch <= last[user] || online[user] == is {
			return fmt.Errorf("E3: %s after the epoch %d of a user that was told to be online: %v", text, last[user], online[user])
		}
		online[user], last[user] = is, epoch
		w.presences++
	}
	for _, user := range users {
		if online[user] == w.hasLeft(user) {
			return fmt.Errorf("E3: %s is told to be online: %v, and has left: %v", user, online[user], w.hasLeft(user))
		}
	}
	return nil
}

// With all rules in place, whatever fails, what is told of users ends as the truth.
func TestPresenceHolds(t *testing.T) {
	var told atomic.Int64
	t.Cleanup(func() { // after the parallel runs
		if told.Load() < int64(len(users)) && !t.Failed() {
			t.Errorf("users were told %d times", told.Load())
		}
	})
	for seed := range runs(t, 6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := everything
				r.topic = 0.3
				w := newWorld(t, plan{seed: uint64(seed), rates: r, length: time.Second, reports: true, presence: true})
				if err := w.run(); err != nil {
					t.Fatal(err)
				}
				told.Add(int64(w.presences))
				t.Logf("%d pushes, %d events, %d of them of presence", w.n, w.told0, w.presences)
			})
		})
	}
}
