package hooks

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"imgo/internal/events"
)

// replay prepares the stored state of a partition for the replay that ended its carrier. The next carrier
// goes on from there.
func (h *hook) replay(ctx context.Context, c *carrier) error {
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
		slices.SortFunc(state.Open, func(a, b heldEvent) int { return cmp.Compare(a.Offset, b.Offset) })
	} else {
		from, err := events.OffsetAt(ctx, c.log, c.partition, control.FromMS)
		if err != nil {
			return fmt.Errorf("find where the replay begins: %w", err)
		}
		position = min(position, from) // the hook may not have reached that time yet
		again := func(l heldEvent) bool { return l.Offset >= from }
		state.Open = slices.DeleteFunc(slices.Clone(state.Open), again)
		state.Dead = slices.DeleteFunc(slices.Clone(state.Dead), again)
	}
	state.Replayed, state.Position, state.Ended = control.Replay, position, false
	if err := h.put(ctx, c.key(), encode(state)); err != nil {
		return err
	}
	h.log.Info().Int32("partition", c.partition).Int64("offset", position).Bool("dead_letters", control.Dead).Msg("the hook is replayed")
	return nil
}
