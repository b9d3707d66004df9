package transport_test

import (
	"testing"
	"testing/synctest"
	"time"

	"imgo/transport"
)

// timed is told deadlines, and asks for its turn's end as a reader may.
type timed struct {
	p     *transport.Patience
	turn  transport.Turn
	since time.Time
	after []time.Duration // when deadlines passed
}

func (c *timed) SetReadDeadline(time.Time) error {
	c.after = append(c.after, time.Since(c.since))
	if !c.p.End(&c.turn) {
		panic("the deadline passed, and the time is not over")
	}
	return nil
}

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 5 * time.Second
		p := transport.NewPatience(timeout)
		begin := func() *timed {
			c := &timed{p: p, since: time.Now()}
			p.Begin(&c.turn, c)
			return c
		}
		want := func(what string, c *timed, after ...time.Duration) {
			t.Helper()
			synctest.Wait() // a timer's goroutine may not be at its end
			if len(c.after) != len(after) || len(after) == 1 && c.after[0] != after[0] {
				t.Errorf("%s: deadlines passed after %v, want %v", what, c.after, after)
			}
		}
		a := begin()
		time.Sleep(time.Second)
		b, c, d := begin(), begin(), begin()
		time.Sleep(time.Second)
		e := begin()
		for _, in := range []*timed{c, c, e} {
			if p.End(&in.turn) {
				t.Error("who is in time is told that it is over")
			}
		}
		time.Sleep(10 * time.Second)
		want("the first", a, timeout)
		want("in the middle", b, timeout)
		want("ended", c)
		want("the last", d, timeout)
		want("ended behind the last", e)
		f := begin() // when nobody waited
		time.Sleep(10 * time.Second)
		want("alone", f, timeout)

		g := begin()
		time.Sleep(time.Second)
		p.Stop()
		want("stopped", g, time.Second)
		want("behind the stop", begin(), 0)
	})
}
