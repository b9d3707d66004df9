package comet

import (
	"time"

	"imgo/protocol"
)

// drainStep is how often the drain closes the next few sessions.
const drainStep = 10 * time.Millisecond

// drain ends every connection. Connections that have not authenticated end at once.
// Sessions end at the drain rate, so that their clients come back elsewhere one after
// another, or faster if that would take longer than DrainTimeout.
func (c *Comet) drain() {
	c.phase.Store(phaseStopping)
	c.admission.Close()

	gone := make(chan struct{})
	var sessions []*session
	c.table.each(func(s *session) { sessions = append(sessions, s) })
	c.log.Info().Int("sessions", len(sessions)).Msg("comet is draining")
	c.closePaced(sessions)
	// Clients that were connecting when the drain began are in the table by now, or
	// are refused.
	go func() {
		c.admission.Wait()
		close(gone)
	}()
	deadline := time.After(c.cfg.CloseTimeout)
	for {
		c.table.each(func(s *session) { s.close(protocol.CloseShutdown, "the server is stopping") })
		select {
		case <-gone:
			c.phase.Store(phaseStopped) // whatever comes from now on is refused
			return
		case <-deadline:
			// The remaining clients are those that logic is being asked about.
			c.stopCalls()
			deadline = nil
		case <-time.After(drainStep):
		}
	}
}

// maxOthers bounds the other comets that a client is told of.
const maxOthers = 5

// others returns where a client of version 2 may connect instead, if code says that this
// comet stops.
func (c *Comet) others(code protocol.CloseCode, scheme string) []string {
	if c.cfg.Others == nil || code != protocol.CloseShutdown {
		return nil
	}
	others := c.cfg.Others(scheme)
	return others[:min(len(others), maxOthers)]
}

// closePaced closes sessions in even steps, at the drain rate or faster.
func (c *Comet) closePaced(sessions []*session) {
	perSecond := max(float64(c.cfg.DrainRate), float64(len(sessions))/c.cfg.DrainTimeout.Seconds())
	started, closed := time.Now(), 0
	for {
		due := min(int(perSecond*(time.Since(started)+drainStep).Seconds())+1, len(sessions))
		for ; closed < due; closed++ {
			sessions[closed].close(protocol.CloseShutdown, "the server is stopping")
		}
		if closed == len(sessions) {
			return
		}
		time.Sleep(drainStep)
	}
}
