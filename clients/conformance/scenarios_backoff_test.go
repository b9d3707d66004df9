package conformance

import (
	"imgo/protocol"
)

func backoffScenarios() []scenario {
	return []scenario{
		{
			name: "backoff", play: playBackoff,
			about: "the wait is a random part of a span, which doubles from min_backoff to max_backoff",
		},
		{
			name: "backoff_begins_anew", play: playBackoffBeginsAnew,
			about: "a session of stable_after makes the backoff begin anew",
		},
		{
			name: "backoff_goes_on", play: playBackoffGoesOn,
			about: "sessions that are shorter than stable_after do not make the backoff begin anew",
		},
		{
			name: "backoff_without_an_address", play: playBackoffWithoutAddress,
			about: "an attempt whose token source fails waits by the backoff, also if op 6 has named addresses that are left",
		},
	}
}

// The spans of the backoff scenarios, in milliseconds. They are long, and connect ends each wait. So the judge needs no
// clock.
const (
	minSpan = 100_000
	maxSpan = 800_000
)

// fail lets an attempt fail and returns how long the client would wait.
func fail(s *server, c *client) float64 {
	s.w.Helper()
	s.accept().Close()
	wait := c.state("waiting").RetryInMS
	c.connect()
	return wait
}

// judgeWaits checks that waits are evenly spread over a span. An even spread of 40 waits fails once in some million times.
func judgeWaits(w *world, waits []float64, span float64) {
	w.Helper()
	sum, low, high := 0.0, 0, 0
	for _, wait := range waits {
		if wait < 0 || wait > span+1 {
			w.Errorf("a wait of %g ms is not within the span of %g ms", wait, span)
		}
		sum += wait / span
		if wait < span/3 {
			low++
		}
		if wait > span*2/3 {
			high++
		}
	}
	if mean := sum / float64(len(waits)); mean < 0.25 || mean > 0.75 || low == 0 || high == 0 {
		w.Errorf("%d waits have a mean of %.2f spans, %d in the first third and %d in the last: that is no full jitter: %.0f",
			len(waits), mean, low, high, waits)
	}
}

func playBackoff(w *world) {
	s := w.server()
	byAttempt := make([][]float64, 4)
	// Several clients give several waits of each attempt. The last span stays.
	for range 3 {
		c := w.client(s, options{"min_backoff_ms": minSpan, "max_backoff_ms": maxSpan})
		c.connect()
		for attempt := range 28 {
			i := min(attempt, len(byAttempt)-1)
			byAttempt[i] = append(byAttempt[i], fail(s, c))
		}
		s.session()
		c.state("live")
		c.close()
	}
	for i, span := range []float64{minSpan, 2 * minSpan, 4 * minSpan} {
		for _, wait := range byAttempt[i] {
			if wait < 0 || wait > span+1 {
				w.Errorf("attempt %d is followed by a wait of %g ms, want at most %g", i+1, wait, span)
			}
		}
	}
	judgeWaits(w, byAttempt[3], maxSpan)
}

func playBackoffBeginsAnew(w *world) {
	s := w.server()
	c := w.client(s, options{"min_backoff_ms": minSpan, "max_backoff_ms": maxSpan, "stable_after_ms": 100})
	c.connect()
	var waits []float64
	for range 3 {
		for range 6 {
			fail(s, c)
		}
		conn := s.sessionWith(authReply{Heartbeat: 0.1})
		conn.beats(4) // at least three intervals on the client's clock
		c.state("live")
		conn.Close()
		waits = append(waits, c.state("waiting").RetryInMS)
		c.connect()
		// The next span is twice the first.
		if wait := fail(s, c); wait > 2*minSpan+1 {
			w.Errorf("the second attempt after a stable session is followed by a wait of %g ms, want at most %d", wait, 2*minSpan)
		}
	}
	for _, wait := range waits {
		if wait > minSpan+1 {
			w.Errorf("a stable session is followed by a wait of %g ms, want at most %d", wait, minSpan)
		}
	}
}

func playBackoffWithoutAddress(w *world) {
	s, other := w.server(), w.server()
	c := w.client(s, options{"token_source": true, "min_backoff_ms": minSpan, "max_backoff_ms": maxSpan})
	c.connect()
	c.token("first")
	conn := s.session()
	c.state("live")
	conn.sendAway(protocol.CloseShutdown, addresses(other.Address()))
	c.state("waiting")
	var waits []float64
	for i := range 45 {
		c.connect()
		c.wanted()
		c.do("token", fields{"error": "a test"})
		if wait := c.state("waiting").RetryInMS; i >= 5 { // the first ones may be for the addresses, or shorter
			waits = append(waits, wait)
		}
	}
	judgeWaits(w, waits, maxSpan)
}

func playBackoffGoesOn(w *world) {
	s := w.server()
	c := w.client(s, options{"min_backoff_ms": minSpan, "max_backoff_ms": maxSpan, "stable_after_ms": 3_600_000})
	c.connect()
	var waits []float64
	for i := range 43 {
		conn := s.session()
		c.state("live")
		if i%2 == 0 {
			conn.Close()
		} else {
			conn.sendAway(protocol.CloseOverload, "")
		}
		if wait := c.state("waiting").RetryInMS; i >= 3 {
			waits = append(waits, wait)
		}
		c.connect()
	}
	judgeWaits(w, waits, maxSpan)
}
