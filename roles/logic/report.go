package logic

import (
	"fmt"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
)

// checkReport returns an error that names the first field about reports that is wrong.
func (h *pushHandler) checkReport(c *PushCommand) error {
	ttl := c.TTL
	if ttl == 0 {
		ttl = h.cfg.DefaultTTL
	}
	for _, field := range []struct {
		name string
		set  bool
	}{{"ref", c.Ref != ""}, {"report", c.Report != nil && *c.Report != events.LevelNone}, {"deadline", c.Deadline != 0}} {
		if field.set && !c.Kept {
			return envelope.Invalid(field.name, "is only possible for a kept message")
		}
	}
	switch {
	case len(c.Ref) > events.MaxRefBytes:
		return envelope.Invalid("ref", fmt.Sprintf("is %d bytes long, at most %d are allowed", len(c.Ref), events.MaxRefBytes))
	case c.Ref != "" && envelope.CheckName("ref", c.Ref) != nil:
		return envelope.CheckName("ref", c.Ref)
	case c.Report != nil && *c.Report > events.LevelEach:
		return envelope.Invalid("report", "must be none, settled or each")
	case c.Deadline < 0:
		return envelope.Invalid("deadline", "must not be negative")
	case c.Deadline > 0 && c.Deadline < time.Millisecond:
		return envelope.Invalid("deadline", "must be at least a millisecond")
	case c.Deadline > ttl:
		return envelope.Invalid("deadline", fmt.Sprintf("is %s, which is longer than the ttl of the message (%s)", c.Deadline, ttl))
	case c.DeadlineAny && c.Deadline == 0:
		return envelope.Invalid("deadline_if", "is only possible with deadline")
	}
	return nil
}

// reportOf returns what a push at the time now asks to be tracked, or nil for nothing.
func (h *pushHandler) reportOf(c *PushCommand, now time.Time) *envelope.Report {
	level := h.level
	if c.Report != nil {
		level = *c.Report
	}
	if level == events.LevelNone && c.Ref == "" && c.Deadline == 0 {
		return nil
	}
	r := &envelope.Report{Level: uint32(level), Ref: c.Ref, DeadlineAny: c.DeadlineAny}
	if c.Deadline > 0 {
		r.DeadlineMs = now.Add(c.Deadline).UnixMilli()
	}
	return r
}
