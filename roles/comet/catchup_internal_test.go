package comet

import (
	"testing"
	"time"
)

// TestCatchUpPauses checks when the next catch-up may be sent: at once after progress, and at once
// after the first answer without progress. Then the pauses grow, up to a bound.
func TestCatchUpPauses(t *testing.T) {
	var c catchUp
	now := time.Hour
	answer := func(progress bool) time.Duration {
		c.sent(now, 7)
		if c.due(now) {
			t.Fatal("due while one is under way")
		}
		c.answered(progress, now)
		pause := max(c.notBefore-now, 0)
		if c.due(now+pause-1) && pause > 0 || !c.due(now+pause) {
			t.Fatalf("a pause of %v does not say when it is due", pause)
		}
		now += pause
		return pause
	}
	ms := time.Millisecond
	for round := range 2 {
		if pause := answer(true); pause != 0 {
			t.Fatalf("round %d: a pause of %v after progress", round, pause)
		}
		for i, want := range []time.Duration{0, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1000 * ms, 1000 * ms} {
			if pause := answer(false); pause != want {
				t.Fatalf("round %d: pause %d is %v, want %v", round, i, pause, want)
			}
		}
	}
}

// TestCatchUpFails checks that after a failed call the next one is not sent at once.
func TestCatchUpFails(t *testing.T) {
	var c catchUp
	c.sent(0, 7)
	c.failed(0)
	if c.due(firstCatchUpPause-1) || !c.due(firstCatchUpPause) {
		t.Errorf("due at %v", c.notBefore)
	}
}

// TestCatchUpExpires checks that the time for an answer grows with each failure in a row. An answer
// that arrives resets it.
func TestCatchUpExpires(t *testing.T) {
	const timeout = 2 * time.Second
	var c catchUp
	if c.expire(time.Hour, timeout) {
		t.Error("a catch-up that was not sent expires")
	}
	now := time.Duration(0)
	expires := func(want time.Duration) {
		t.Helper()
		c.sent(now, 7)
		if c.expire(now+want-1, timeout) {
			t.Fatalf("it expires before %v", want)
		}
		if now += want; !c.expire(now, timeout) || !c.due(now) {
			t.Fatalf("it does not expire after %v", want)
		}
	}
	for _, want := range []time.Duration{timeout, 2 * timeout, 4 * timeout, 4 * timeout} {
		expires(want)
	}
	c.sent(now, 7)
	c.answered(true, now)
	expires(timeout)
}

// TestCatchUpSaw checks that only the highest id counts.
func TestCatchUpSaw(t *testing.T) {
	var c catchUp
	for _, id := range []uint64{3, 9, 5} {
		c.saw(id)
	}
	if c.seen != 9 {
		t.Errorf("seen is %d", c.seen)
	}
}
