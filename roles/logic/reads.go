package logic

import (
	"cmp"
	"context"
	"fmt"

	"imgo/envelope"
	"imgo/protocol"
)

// readHandler takes what users have read.
type readHandler struct{ *shared }

// Read puts it into the kept log that a user has read messages. Without an error that is durable: no device of the user waits for
// these messages any more. The user's other sessions of version 2 are told then, as far as they are found in time, since
// what they are told is not kept. The record passes although the disk's reserve is reached, because it helps to free space.
// Read returns envelope.ErrUpgradeUnfinished while some node does not know such records. Reading again is harmless.
func (h *readHandler) Read(ctx context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	reply, err := h.read(ctx, r)
	h.metrics.reads.WithLabelValues(outcome(err)).Inc()
	return reply, err
}

func (h *readHandler) read(ctx context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error) {
	if err := checkRead(r.GetRead()); err != nil {
		return nil, err
	}
	if err := h.kept.require(ctx, envelope.RecordVersionClients); err != nil {
		return nil, err
	}
	read := &envelope.Read{
		User: r.Read.User, Device: r.Read.Device, Ids: r.Read.Ids, UpTo: r.Read.UpTo, ByCaller: r.From == nil,
	}
	id, err := h.kept.append(ctx, read.User, "append what was read", &envelope.Record{Read: read}, true)
	if err != nil {
		return nil, err
	}
	// Messages that are newer than the record were not read: no client is to take them from its screen.
	read.UpTo = min(read.UpTo, id)
	sessions, err := h.dismiss(ctx, read, r.From)
	if err != nil {
		h.warn.log(err, "other sessions were not told what was read")
	}
	return &envelope.ReadReply{Sessions: uint32(sessions)}, nil
}

// checkRead returns an error that names the first field that is wrong.
func checkRead(r *envelope.Read) error {
	if err := cmp.Or(envelope.CheckName("user", r.GetUser()), checkOptional("device", r.GetDevice())); err != nil {
		return err
	}
	switch {
	case len(r.Ids) == 0 && r.UpTo == 0:
		return envelope.Invalid("ids", "is empty, and up_to is missing: name the messages that were read")
	case len(r.Ids) > protocol.MaxReadIDs:
		return envelope.Invalid("ids", fmt.Sprintf("has %d messages, at most %d are allowed: use up_to, or several calls",
			len(r.Ids), protocol.MaxReadIDs))
	}
	return nil
}

// dismiss tells the user's sessions of version 2, but for the one that has read, what was read. It returns how many
// they are.
func (h *readHandler) dismiss(ctx context.Context, read *envelope.Read, from *envelope.Address) (sessions int, err error) {
	lookupCtx, cancel := context.WithTimeout(ctx, h.cfg.LookupTimeout)
	defer cancel()
	found, err := h.owners.lookup(lookupCtx, h.owners.targets([]string{read.User}), want{full: true})
	if err != nil {
		return 0, err
	}
	var to []*envelope.Address
	for _, s := range found[read.User].GetFull() {
		if s.GetGeneration() == envelope.ClientProtocolV2 && (from == nil || s.GetAddress().AsKey() != from.AsKey()) {
			to = append(to, s.GetAddress())
		}
	}
	if len(to) == 0 {
		return 0, nil
	}
	records := byComet(to, func(to []*envelope.Address) *envelope.Envelope {
		return &envelope.Envelope{Dismiss: &envelope.Dismiss{To: to, Ids: read.Ids, UpTo: read.UpTo}}
	})
	return len(to), h.live.publish(ctx, "tell other sessions what was read", records...)
}
