package router

import (
	"context"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router/mailbox"
)

// record puts one record into the log and waits until it is applied.
func (pr *presenceRecorder) record(ctx context.Context, presences []*envelope.Presence) error {
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	p := pr.p
	if err := p.mayRecordPresence(ctx); err != nil {
		return err
	}
	id, err := p.append(ctx, p.index, &envelope.Record{Presences: &envelope.Presences{Presences: presences}}, "who has come and gone")
	if err == nil {
		err = p.wait(ctx, id)
	}
	if err == nil {
		p.metrics.presences.Add(float64(len(presences)))
	} else if ctx.Err() == nil {
		p.metrics.presenceErrors.Inc()
		p.log.Warn().Err(err).Int32("partition", p.index).Int("users", len(presences)).
			Msg("users that have come and gone were not told; trying again")
	}
	return err
}

// putBack has those of a batch told again that are not told, because the record failed or was void.
func (pr *presenceRecorder) putBack(batch []presenceDue, err error) {
	p := pr.p
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.now().Add(presenceRetry)
	pr.recording = nil
	for _, d := range batch {
		if change, ok := pr.changes[d.a]; ok && change.n == d.n {
			pr.pushLocked(d.a, d.n, at)
		}
	}
}

// RecordVersions says whether records of a newer version may be appended. Safe for concurrent use.
type RecordVersions interface {
	// Require returns nil once all nodes read records of the version. It returns an
	// envelope.ErrUpgradeUnfinished that names the nodes that do not.
	Require(ctx context.Context, version uint32) error
}

// mayRecordPresence returns nil once all nodes read records of presence. It logs once that they do not.
func (res *resources) mayRecordPresence(ctx context.Context) error {
	if res.versions == nil {
		return nil
	}
	err := res.versions.Require(ctx, envelope.RecordVersionClients)
	if res.presenceRefused.Swap(err != nil) != (err != nil) {
		if err != nil {
			res.log.Warn().Err(err).Msg("no user is told to be online or offline until all nodes read such records")
		} else {
			res.log.Info().Msg("all nodes read records of presence: users are told to be online and offline")
		}
	}
	return err
}

// presencesLocked applies a record of users that have come and gone.
func (ap *applier) presencesLocked(id uint64, rec *envelope.Record) error {
	p := ap.p
	for _, presence := range rec.Presences.Presences {
		err := ap.withLocked(id, presence.User, 64, func(a *account) {
			a.Presence().Set(id, presence, rec.TimeMs, &ap.derived)
			if a.ForgetOffline() {
				p.writes.whole = true
			}
			p.presence.recordedLocked(a, presence.Online && presence.At == 0, p.now())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notifyByClockLocked tells users without the log, as a router with the fault PresenceByClock does.
func (pr *presenceRecorder) notifyByClockLocked(presences []*envelope.Presence) {
	p := pr.p
	var derived mailbox.Events
	for _, presence := range presences {
		if a := p.accounts.byUser[presence.User]; a != nil {
			a.Presence().Set(p.position.appliedID(), presence, presence.SinceMs, &derived)
			p.accounts.touchLocked(a, 64)
			pr.noteLocked(a, p.now(), "")
		}
	}
	p.events.addLocked(derived, events.ID{Record: p.position.appliedID(), N: 2000}, 0)
}

// describePresenceLocked adds to a reply about a user whether its devices are online, and since when the user
// is online or offline. The sessions say so; what was told helps where they began or ended before this router
// had the partition. An online device is seen now, by the node's clock: after a cluster was at rest, the log's clock is late.
func (p *partition) describePresenceLocked(a *account, reply *envelope.UserReply) {
	nowMS := p.now().UnixMilli()
	for _, d := range a.Meta().Devices {
		info := &envelope.DeviceInfo{
			Device: d.Name, SeenMs: d.SeenMS, Pending: uint32(a.Messages.Pending(1 << d.Bit)), Online: a.connected(d.Name),
		}
		if info.Online {
			info.SeenMs = nowMS
		}
		reply.Devices = append(reply.Devices, info)
		reply.LastSeenMs = max(reply.LastSeenMs, info.SeenMs)
	}
	recorded := a.Meta().Presence
	if p.presence == nil {
		recorded = nil // it may be from long ago
	}
	if len(a.sessions) > 0 {
		reply.LastSeenMs, reply.SinceMs = nowMS, a.onlineSince()
		if recorded != nil && recorded.Online && recorded.SinceMS > 0 && (reply.SinceMs == 0 || recorded.SinceMS < reply.SinceMs) {
			reply.SinceMs = recorded.SinceMS
		}
		return
	}
	if recorded != nil && !recorded.Online {
		reply.LastSeenMs = max(reply.LastSeenMs, recorded.SinceMS)
	}
	reply.SinceMs = reply.LastSeenMs
}
