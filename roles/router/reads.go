package router

import (
	"imgo/envelope"
	"imgo/roles/router/mailbox"
)

// readLocked applies that a user has read messages.
func (ap *applier) readLocked(id uint64, rec *envelope.Record) error {
	read := rec.Read
	if !ap.storableLocked(id, read.Device, "device") {
		return nil
	}
	return ap.withLocked(id, read.User, 64+8*len(read.Ids), func(a *account) {
		by := mailbox.Reading{Device: read.Device, IDs: read.Ids, UpTo: read.UpTo, TimeMS: rec.TimeMs, ByCaller: read.ByCaller}
		ap.p.metrics.acked.Add(float64(a.Read(id, &by, &ap.derived)))
	})
}
