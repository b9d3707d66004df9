package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"imgo/internal/events"
)

// replay prepares the stored state of a partition for the replay that ended its carrier. The next carrier
// goes on from there.
func (h *hook) replay(ctx context.Context, c *carrier, commit func(context.Context, Part) error) error {
	control, _ := h.control()
	state := c.state
	position := c.position()
	if control.Dead {
		for _, l := range state.Dead {
			// One try counts as made, so that the event is read again and posted alone.
			l.Tries, l.FirstMS, l.DueMS, l.Why, l.At = 1, h.now().UnixMilli(), 0, "", 0
			state.Open = append(state.Open, l)
		}
		state.Dead = nil
		slices.SortFunc(state.Open, func(a, b Letter) int { return int(a.Offset - b.Offset) })
	} else {
		var err error
		if position, err = offsetAt(ctx, c.log, c.partition, control.FromMS); err != nil {
			return fmt.Errorf("find where the replay begins: %w", err)
		}
		again := func(l Letter) bool { return l.Offset >= position }
		state.Open = slices.DeleteFunc(slices.Clone(state.Open), again)
		state.Dead = slices.DeleteFunc(slices.Clone(state.Dead), again)
	}
	state.Replayed, state.Position = control.Replay, position
	if err := h.put(ctx, stateKey(h.cfg.Name, place{c.log.Generation(), c.partition}), encode(state)); err != nil {
		return err
	}
	h.log.Info().Int32("partition", c.partition).Int64("offset", position).Bool("dead_letters", control.Dead).Msg("the hook is replayed")
	return commit(ctx, Part{c.partition, position})
}

// offsetAt returns the offset of the first event of a partition at or after a time, in Unix milliseconds. An
// event has the time of its record.
func offsetAt(ctx context.Context, log events.Log, partition int32, ms int64) (int64, error) {
	low, high, err := log.Bounds(ctx, partition)
	if err != nil {
		return 0, err
	}
	for low < high {
		middle := low + (high-low)/2
		entries, err := log.Read(ctx, partition, middle, 1)
		if err != nil {
			return 0, err
		}
		if len(entries) > 0 && eventMS(entries[0].Value) < ms {
			low = entries[0].Offset + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// eventMS returns the time of an event in Unix milliseconds; 0: it cannot be read.
func eventMS(value []byte) int64 {
	var e struct {
		Time time.Time `json:"time"`
	}
	if json.Unmarshal(value, &e) != nil {
		return 0
	}
	return e.Time.UnixMilli()
}
