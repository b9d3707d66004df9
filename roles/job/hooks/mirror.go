package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/rs/zerolog"

	"imgo/internal/wait"
)

// mirror is a copy of the table in memory. It is safe for concurrent use.
type mirror struct {
	table Table

	mu      sync.Mutex
	entries map[string]entry
	next    int64         // the offset behind the entries that were followed
	changed chan struct{} // closed at each change
}

// entry is the newest entry of a key. value is nil if there is none.
type entry struct {
	offset int64
	value  []byte
}

func newMirror(t Table) *mirror {
	return &mirror{table: t, entries: make(map[string]entry), changed: make(chan struct{})}
}

// run follows the table until ctx is done.
func (m *mirror) run(ctx context.Context, log zerolog.Logger) {
	backoff := wait.Backoff{Min: minRetry / 10, Max: maxRetry / 10}
	for ctx.Err() == nil {
		m.mu.Lock()
		from := m.next
		m.mu.Unlock()
		err := m.table.Follow(ctx, from, func(offset int64, key, value []byte) error {
			m.mu.Lock()
			m.setLocked(offset, string(key), value)
			m.next = max(m.next, offset+1)
			m.mu.Unlock()
			backoff.Reset()
			return nil
		})
		if ctx.Err() == nil {
			log.Warn().Err(err).Msg("the state of the hooks is not read; trying again")
			_ = backoff.Sleep(ctx)
		}
	}
}

// set is setLocked for an entry that this process has written.
func (m *mirror) set(offset int64, key string, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setLocked(offset, key, value)
}

// setLocked takes an entry, unless the copy has a newer one of the key: another node may have written it meanwhile.
func (m *mirror) setLocked(offset int64, key string, value []byte) {
	if m.entries[key].offset <= offset {
		m.entries[key] = entry{offset, value}
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// sync waits until the copy has everything that is in the table now.
func (m *mirror) sync(ctx context.Context) error {
	end, err := m.table.End(ctx)
	if err != nil {
		return fmt.Errorf("find the end of the state of the hooks: %w", err)
	}
	for {
		m.mu.Lock()
		there, changed := m.next >= end, m.changed
		m.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("read the state of the hooks: %w", ctx.Err())
		}
	}
}

// changes returns a channel that is closed when some entry changes.
func (m *mirror) changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// get returns an entry, or nil if there is none.
func (m *mirror) get(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.entries[key].value
}

// load reads an entry. stored is false if there is none.
func load[T any](m *mirror, key string) (v T, stored bool, err error) {
	return decode[T](key, m.get(key))
}

// decode is load for an entry that was read.
func decode[T any](key string, value []byte) (v T, stored bool, err error) {
	if value == nil {
		return v, false, nil
	}
	if err := json.Unmarshal(value, &v); err != nil {
		var none T
		return none, true, fmt.Errorf("read the stored %s: %w", key, err)
	}
	return v, true, nil
}

// states calls fn for each stored state of a hook.
func (m *mirror) states(hook string, fn func(at place, s State)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, e := range m.entries {
		var s State
		if name, at, ok := parseStateKey(key); ok && name == hook && json.Unmarshal(e.value, &s) == nil {
			fn(at, s)
		}
	}
}
