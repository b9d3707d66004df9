package comet

import (
	"time"

	"imgo/protocol"
)

const (
	minSweepTick = 5 * time.Millisecond
	maxSweepTick = 100 * time.Millisecond
	// heartbeatTicks is how many ticks it takes to look once at the heartbeat of
	// every session.
	heartbeatTicks = 10
)

// sweeper is comet's one clock, in place of timers for each session. Every tick it looks at
// the sessions that have something under way. It also looks at a tenth of all sessions: at
// the heartbeat, the token and the end of stays in rooms. It is for one goroutine.
type sweeper struct {
	comet *Comet
	next  int // shard whose heartbeats are next
	list  sessionList
}

// tick returns a fifth of the shortest time that the sweeper has to notice.
func (w *sweeper) tick() time.Duration {
	cfg := &w.comet.cfg
	shortest := min(cfg.CatchUpTimeout, cfg.Heartbeat/2, cfg.HeartbeatV1/4)
	return min(max(shortest/5, minSweepTick), maxSweepTick)
}

func (w *sweeper) sweep() {
	c := w.comet
	for i := range c.table.shards {
		for _, s := range c.table.shards[i].collectBusy() {
			w.checkBusy(s)
		}
	}
	for range (shardCount + heartbeatTicks - 1) / heartbeatTicks {
		c.table.shards[w.next].each(&w.list, w.checkAlive)
		if w.next = (w.next + 1) % shardCount; w.next == 0 {
			c.workers.Trim()
		}
	}
}

// checkBusy looks at a session that is behind, whose socket has no room, or that
// waits for its client's TCP. If that is still so the session stays in the list.
func (w *sweeper) checkBusy(s *session) {
	s.out.Lock()
	defer s.out.Unlock()
	s.busy = false
	if s.state <= stateLive {
		s.out.AbortIfSlowLocked(s)
	}
	if s.state > stateLive {
		return
	}
	s.auto.ackArrivedLocked(false)
	if c := w.comet; s.catchUp != nil && !c.cfg.Faults.NoAskAgain && s.catchUp.expire(c.now(), c.cfg.CatchUpTimeout) {
		c.metrics.catchUps.WithLabelValues("again").Inc()
	}
	s.askIfDueLocked()
	if s.auto.awaitsTCPLocked() || s.catchUp != nil || s.out.BlockedLocked() {
		s.markBusyLocked()
	}
}

// checkAlive closes a session that gave no sign of life for too long, or whose
// token has expired.
func (w *sweeper) checkAlive(s *session) {
	c := w.comet
	limit := c.cfg.HeartbeatV1
	if s.speaks == protocolV2 {
		limit = c.cfg.Heartbeat * 5 / 2
	}
	// Pings count for clients of version 2. Asking for them touches one more object
	// in memory, so only a session that is silent otherwise is asked.
	if c.now()-time.Duration(s.heard.Load()) > limit && (s.speaks != protocolV2 || time.Since(s.out.Conn().LastSign()) > limit) {
		s.close(protocol.CloseStaleHeartbeat, "no heartbeat for too long")
		return
	}
	if c.roomsEnd.Load() {
		member{s}.endStays(time.Now())
	}
	if !c.cfg.CloseExpired {
		return
	}
	s.out.Lock()
	expired := s.expires > 0 && time.Now().UnixMilli() >= s.expires
	s.out.Unlock()
	if expired {
		s.close(protocol.CloseTokenExpired, "the token has expired")
	}
}
