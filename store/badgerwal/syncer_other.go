//go:build !linux

package badgerwal

// Syncer does not exist on systems where it is not known that syncing a file
// writes pages that were changed through a mapping of it. Badger syncs each
// commit itself there, and no positions are compared.
type Syncer struct{}

// NewSyncer returns nil without an error.
func NewSyncer(dir string) (*Syncer, error) { return nil, ForgetPositions(dir) }

// Sync does nothing: there is no Syncer.
func (*Syncer) Sync() error { return nil }

// Flush does nothing: there is no Syncer.
func (*Syncer) Flush() error { return nil }

// Forget does nothing: there is no Syncer.
func (*Syncer) Forget() error { return nil }

// Close does nothing: there is no Syncer.
func (*Syncer) Close(bool) error { return nil }
