package transport_test

import (
	"testing"
	"testing/synctest"
	"time"

	"imgo/transport"
)

// deadlineConn records when its read deadline passed. It then calls Cancel at once, as a reader may.
type deadlineConn struct {
	shared  *transport.SharedDeadline
	slot    transport.DeadlineSlot
	started time.Time
	passed  []time.Duration
}

func (c *deadlineConn) SetReadDeadline(time.Time) error {
	c.passed = append(c.passed, time.Since(c.started))
	if !c.shared.Cancel(&c.slot) {
		panic("the read deadline has passed, but Cancel says that the time is not over")
	}
	return nil
}

func TestSharedDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 5 * time.Second
		shared := transport.NewSharedDeadline(timeout)
		start := func() *deadlineConn {
			c := &deadlineConn{shared: shared, started: time.Now()}
			shared.Start(&c.slot, c)
			return c
		}
		want := func(what string, c *deadlineConn, passed ...time.Duration) {
			t.Helper()
			synctest.Wait() // The timer's goroutine may still be running.
			if len(c.passed) != len(passed) || len(passed) == 1 && c.passed[0] != passed[0] {
				t.Errorf("%s: the deadline passed after %v, want %v", what, c.passed, passed)
			}
		}
		a := start()
		time.Sleep(time.Second)
		b, c, d := start(), start(), start()
		time.Sleep(time.Second)
		e := start()
		for _, in := range []*deadlineConn{c, c, e} {
			if shared.Cancel(&in.slot) {
				t.Error("Cancel in time says that the time is over")
			}
		}
		time.Sleep(10 * time.Second)
		want("the first", a, timeout)
		want("in the middle", b, timeout)
		want("cancelled", c)
		want("the last", d, timeout)
		want("cancelled at the end of the list", e)
		f := start() // No other connection waits at this time.
		time.Sleep(10 * time.Second)
		want("alone", f, timeout)

		g := start()
		time.Sleep(time.Second)
		shared.Stop()
		want("stopped", g, time.Second)
		want("started after Stop", start(), 0)
	})
}
