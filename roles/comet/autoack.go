package comet

import (
	"time"

	"imgo/envelope"
)

// The values of Config.AutoAck.
const (
	// AutoAckPacket counts a message as delivered when the client has sent a packet
	// after it. Only the client itself can do that.
	AutoAckPacket = "packet"
	// AutoAckTCP counts a message as delivered when the TCP of the other side has
	// acknowledged it. The other side may be a proxy.
	AutoAckTCP = "tcp"
)

// maxUnacked bounds the messages of an autoAck. A session with as many falls
// behind, and gets the rest once some have arrived.
const maxUnacked = 4096

// packetAge is how old a written message must be for a client's packet to stand
// for it. A packet that arrives earlier may have been sent before the message
// reached the client. It is far over the round trip of a mobile network.
const packetAge = 3 * time.Second

// autoAck acknowledges for the client of a session that does not do it itself. A nil one
// is that of a session that has got nothing kept. The lock of the session's outbox guards it.
type autoAck struct {
	session *session
	unacked unacked
	paced   pacer
}

// unacked holds the kept messages that were written to a client and do not count
// as delivered, in the order of the stream.
type unacked []written

// written is a kept message that was written at the time at on comet's clock. The
// client's TCP has it once it has acknowledged the stream up to position end.
type written struct {
	id  uint64
	end int64
	at  time.Duration
}

func (u *unacked) add(w written) { *u = append(*u, w) }

// full reports whether no more messages may be added before some have arrived.
func (u unacked) full() bool { return len(u) >= maxUnacked }

// endsAt reports whether the last message was written up to position end.
func (u unacked) endsAt(end int64) bool { return len(u) > 0 && u[len(u)-1].end == end }

// removeArrived removes the messages that lie before position end of the stream and
// were written at the time latest at the latest. It returns their ids.
func (u *unacked) removeArrived(end int64, latest time.Duration) []uint64 {
	n := 0
	for n < len(*u) && (*u)[n].end <= end && (*u)[n].at <= latest {
		n++
	}
	if n == 0 {
		return nil
	}
	ids := make([]uint64, n)
	for i, w := range (*u)[:n] {
		ids[i] = w.id
	}
	if *u = (*u)[n:]; len(*u) == 0 {
		*u = nil // an idle session has no memory for it
	}
	return ids
}

// autoLocked returns the session's autoAck, which it has from now on.
func (s *session) autoLocked() *autoAck {
	s.ownExtrasLocked()
	if s.auto == nil {
		s.auto = &autoAck{session: s, paced: pacer{session: s}}
	}
	return s.auto
}

// pacer returns the session's pacer.
func (a *autoAck) pacer() *pacer {
	if a == nil {
		return nil
	}
	return &a.paced
}

// writtenLocked notes a kept message that the kernel has, up to position end of the stream.
func (a *autoAck) writtenLocked(id uint64, end int64) {
	if !a.unacked.endsAt(end) {
		a.ackArrivedLocked(false)
	}
	a.unacked.add(written{id, end, a.session.comet.now()})
	if a.awaitsTCPLocked() { // else the next packet counts
		a.session.markBusyLocked()
	}
}

// awaitsTCPLocked reports whether messages count as delivered once the client's TCP
// has acknowledged them.
func (a *autoAck) awaitsTCPLocked() bool {
	return a != nil && len(a.unacked) > 0 && a.session.comet.cfg.AutoAck == AutoAckTCP
}

// ackArrivedLocked acknowledges for a client that does not. packet says that a
// packet of the client has just arrived. By default only a packet counts, and only
// for messages that were written at least packetAge ago and that the client's TCP has
// acknowledged. With AutoAckTCP the acknowledgement of TCP is enough. Where the
// transport does not know it, a packet stands for it.
func (a *autoAck) ackArrivedLocked(packet bool) {
	if a == nil || len(a.unacked) == 0 {
		return
	}
	c := a.session.comet
	by, latest := AutoAckTCP, c.now()
	if c.cfg.AutoAck != AutoAckTCP {
		if !packet {
			return
		}
		by, latest = AutoAckPacket, latest-packetAge
	}
	// Written is read first: bytes written in between then count as unacknowledged.
	conn := a.session.out.Conn()
	arrived := conn.Written()
	if unacked, ok := conn.Unacked(); ok {
		arrived -= unacked
	} else if !packet {
		return
	}
	if ids := a.unacked.removeArrived(arrived, latest); len(ids) > 0 {
		c.acknowledge(a.session, ids, by)
	}
}

// fullLocked reports whether so much of what was written does not count as delivered
// that no more kept messages are to be written.
func (a *autoAck) fullLocked() bool {
	if a == nil || !a.unacked.full() {
		return false
	}
	a.ackArrivedLocked(false)
	return a.unacked.full()
}

// ackedByClient is the label of acknowledgements that clients send.
const ackedByClient = "client"

// acknowledge tells logic, in a batch with others, that kept messages have
// arrived. by is the label of the counter. The session may be locked.
func (c *Comet) acknowledge(s *session, ids []uint64, by string) {
	c.metrics.acks.WithLabelValues(by).Add(float64(len(ids)))
	c.acks.add(&envelope.Ack{User: s.user, Device: s.device, Ids: ids, Auto: by != ackedByClient})
}
