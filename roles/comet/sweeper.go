package comet

import (
	"time"

	"imgo/protocol"
)

// Bounds of the sweep's tick, and how many ticks it takes to look once at
// every session's heartbeat.
const (
	minTick        = 5 * time.Millisecond
	maxTick        = 100 * time.Millisecond
	heartbeatTicks = 10
)

// sweepTick is a fifth of the shortest thing that the sweep has to notice.
func sweepTick(cfg *Config) time.Duration {
	shortest := min(cfg.CatchUpTimeout, cfg.Heartbeat/2, cfg.HeartbeatV1/4)
	return min(max(shortest/5, minTick), maxTick)
}

// sweep is comet's one clock: in place of timers for each session it looks at
// the sessions that have something under way every tick, and at the heartbeat
// and the token of a tenth of all. A second or so brings it around.
func (c *Comet) sweep(stop <-chan struct{}) {
	ticker := time.NewTicker(sweepTick(&c.cfg))
	defer ticker.Stop()
	next := 0
	for {
		select {
		case <-ticker.C:
		case <-stop:
			return
		}
		for i := range c.table.shards {
			c.table.shards[i].sweepBusy()
		}
		for range (shardCount + heartbeatTicks - 1) / heartbeatTicks {
			c.table.shards[next].each(c.checkAlive)
			if next = (next + 1) % shardCount; next == 0 {
				c.workers.Trim()
			}
		}
	}
}

// sweepBusy looks at the sessions that are behind, or wait for their client's
// TCP; those that still do mark themselves again.
func (sh *shard) sweepBusy() {
	sh.busyMu.Lock()
	busy := sh.busy
	sh.busy = nil
	sh.busyMu.Unlock()
	for _, s := range busy {
		s.out.Lock()
		s.busy = false
		if s.state <= stateLive {
			s.out.AbortIfSlowLocked(s)
		}
		if s.state <= stateLive {
			s.ackArrivedLocked(false)
			s.retryCatchUpLocked()
			s.askIfDueLocked()
			if len(s.unacked) > 0 || s.behind || s.out.BlockedLocked() {
				s.markBusyLocked()
			}
		}
		s.out.Unlock()
	}
}

// checkAlive closes a session that gave no sign of life for too long, or whose
// token has ended.
func (c *Comet) checkAlive(s *session) {
	limit := c.cfg.HeartbeatV1
	if s.gen == genV2 {
		limit = c.cfg.Heartbeat * 5 / 2
	}
	// Pings count for clients of version 2; they are only asked for, which costs
	// the memory of one more object, of those who are silent otherwise.
	if c.now()-time.Duration(s.heard.Load()) > limit && (s.gen != genV2 || time.Since(s.out.Conn().LastSign()) > limit) {
		s.close(protocol.CloseStaleHeartbeat, "no heartbeat for too long")
		return
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
