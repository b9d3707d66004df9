package growth

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
)

// Records returns the highest version of kept records in use, from 1, and a channel
// that is closed when that may have changed.
func (g *Growth) Records() (version uint32, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(1, g.records), g.changed
}

// UseRecords writes that records of a version are in use. When it returns nil, every
// node that starts from now on knows it. After an error the records may be in use or not, and it may be called again.
func (g *Growth) UseRecords(ctx context.Context, version uint32) error {
	if now, _ := g.Records(); now >= version {
		return nil
	}
	v := &envelope.RecordsVersion{Version: version, TimeMs: time.Now().UnixMilli()}
	if err := g.put(ctx, fmt.Appendf([]byte{keyRecords}, "%d", version), v); err != nil {
		return fmt.Errorf("write that records of version %d are in use: %w", version, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records = max(g.records, version)
	return nil
}
