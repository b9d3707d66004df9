package comet

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// markRead takes what the user has read: all up to the packet's id, and the ids of its body. The answer says that it is
// durable. It waits for logic.
func (r reader) markRead(p transport.Packet) {
	r.countPacket("read")
	body := p.Body
	if r.form.JSON() && string(body) == "{}" { // as an empty body is in the server's frames
		body = nil
	}
	var ids []uint64
	var err error
	if len(body) > 0 {
		ids, err = bodyIDs(r.form, body, "read body")
	}
	switch {
	case err != nil:
	case len(ids) == 0 && p.ID == 0:
		err = envelope.Invalid("read body", "is empty, and the packet has no id: name the messages that were read")
	case len(ids) > protocol.MaxReadIDs:
		err = envelope.Invalid("read body", fmt.Sprintf("has %d ids, at most %d are allowed", len(ids), protocol.MaxReadIDs))
	}
	if err != nil {
		r.refuse(p, err)
		return
	}
	r.out.Lock()
	read := &envelope.Read{User: r.user, Device: r.device, Ids: ids, UpTo: p.ID}
	r.out.Unlock()
	ctx, cancel := context.WithTimeout(r.comet.calls, r.comet.cfg.CallTimeout)
	defer cancel()
	if _, err := r.comet.logic.Read(ctx, &envelope.ReadRequest{Read: read, From: r.addressKey().Address()}); err != nil {
		r.refuse(p, err)
		return
	}
	r.reply(p, protocol.OpReadReply, nil)
}

// dismiss tells sessions of version 2 which messages were read elsewhere. A session that does not take what it is
// sent is told nothing.
func (c *Comet) dismiss(d *envelope.Dismiss) {
	for _, to := range d.GetTo() {
		s := c.table.find(to.GetSession())
		if s == nil {
			continue
		}
		s.out.Lock()
		if s.speaks == protocolV2 && s.state == stateLive {
			body := appendIDs(nil, s.form, d.GetIds())
			s.sendReplyLocked(transport.EncodeReply(s.form, protocol.Version2, protocol.OpDismiss, 0, d.GetUpTo(), body))
		}
		s.out.Unlock()
	}
}

// appendIDs appends ids in the form of a session, as bodyIDs reads them. No ids are an empty body.
func appendIDs(b []byte, form transport.Form, ids []uint64) []byte {
	if !form.JSON() {
		for _, id := range ids {
			b = binary.BigEndian.AppendUint64(b, id)
		}
		return b
	}
	if len(ids) == 0 {
		return b
	}
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendUint(append(b, '"'), id, 10), '"')
	}
	return append(b, ']')
}
