package hooks

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// State is what a hook has stored about one partition: the events that wait for another try, the dead letters, and
// where a job goes on to read. Each state that was ever stored is true for ever: a job that goes on from an older one
// loses no event.
type State struct {
	// Open has the events before the position that were not answered, oldest first.
	Open []heldEvent `json:"open,omitempty"`
	// Dead has the events that were set aside, oldest first.
	Dead []heldEvent `json:"dead,omitempty"`
	// DeadTotal counts all of them since the hook began.
	DeadTotal uint64 `json:"dead_total,omitempty"`
	// Replayed is the number of the last replay that this partition has taken up.
	Replayed uint64 `json:"replayed,omitempty"`
	// Ended is set if all events of an older generation are posted. A replay clears it, and the hook goes on with the
	// generation.
	Ended bool `json:"ended,omitempty"`
	// Position is up to where everything is answered, or in Open or Dead. The next job reads from there.
	Position int64 `json:"position"`
	// Failing says why the newest failed call failed, with its time; empty after a success.
	Failing   string `json:"failing,omitempty"`
	FailingMS int64  `json:"failing_ms,omitempty"`
}

// gone is the offset of a dead letter whose event is no longer in the topic. No entry has it.
const gone = -1

// heldEvent is an event that waits or was set aside.
type heldEvent struct {
	Offset int64  `json:"offset"`
	ID     string `json:"id"`
	User   string `json:"user"`
	// Tries counts the calls, the first one at FirstMS. The next one is not before DueMS.
	Tries   int    `json:"tries,omitempty"`
	FirstMS int64  `json:"first_ms,omitempty"`
	DueMS   int64  `json:"due_ms,omitempty"`
	Why     string `json:"why,omitempty"` // of a dead letter
	// At is when it became a dead letter, in Unix milliseconds.
	At int64 `json:"at,omitempty"`
}

// correct bounds a DueMS that was set while a clock was ahead: of this job before its clock was set right, or of an
// earlier one. It would stop the events of the user for as long as the clock was ahead.
func (l *heldEvent) correct(now time.Time) {
	l.DueMS = min(l.DueMS, now.Add(longestPause).UnixMilli())
}

// addDead adds a dead letter.
func (s *State) addDead(l heldEvent, why string, now time.Time) {
	l.DueMS, l.Why, l.At = 0, why, now.UnixMilli()
	s.Dead = append(s.Dead, l)
	s.DeadTotal++
	if extra := len(s.Dead) - maxDead; extra > 0 {
		s.Dead = slices.Delete(s.Dead, 0, extra)
	}
}

// Control is what a caller of the API wants of a hook.
type Control struct {
	// Replay counts the replays. The last one begins at FromMS, or takes the dead letters.
	Replay uint64 `json:"replay,omitempty"`
	FromMS int64  `json:"from_ms,omitempty"`
	Dead   bool   `json:"dead,omitempty"`
	// Pause has an entry of its own.
	Pause `json:"-"`
}

// Pause says why nothing is posted. It has a key of its own: jobs begin pauses, and must not write
// the replays of callers back.
type Pause struct {
	// Paused is empty if the hook is not paused. URL is the address at the pause: another one ends it.
	Paused   string `json:"paused,omitempty"`
	PausedMS int64  `json:"paused_ms,omitempty"`
	URL      string `json:"url,omitempty"`
}

// The keys of the table: state/HOOK/GENERATION/PARTITION, control/HOOK and pause/HOOK. A name has no slash.
const (
	statePrefix   = "state/"
	controlPrefix = "control/"
	pausePrefix   = "pause/"
)

// place is a partition of a generation of the events topic.
type place struct {
	generation uint16
	partition  int32
}

func stateKey(hook string, at place) string {
	return fmt.Sprintf("%s%s/%d/%d", statePrefix, hook, at.generation, at.partition)
}

// loadControl reads what is wanted of a hook.
func loadControl(m *mirror, hook string) (Control, error) {
	c, _, err := load[Control](m, controlPrefix+hook)
	if err == nil {
		c.Pause, _, err = load[Pause](m, pausePrefix+hook)
	}
	return c, err
}

// parseStateKey returns the hook and the place of a state's key.
func parseStateKey(key string) (hook string, at place, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 || parts[0]+"/" != statePrefix {
		return "", at, false
	}
	generation, err := strconv.ParseUint(parts[2], 10, 16)
	partition, perr := strconv.ParseInt(parts[3], 10, 32)
	return parts[1], place{uint16(generation), int32(partition)}, err == nil && perr == nil
}

// item is an open event in memory. It is due at once if it was never tried.
type item struct {
	heldEvent
	value []byte // nil: to be read again
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // numbers and strings only
		panic(fmt.Sprintf("hooks: encode %T: %v", v, err))
	}
	return b
}
