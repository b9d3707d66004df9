package httpapi

import (
	"fmt"
	"math"
	"net/http"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/jsonread"
)

// hooksReply is the body of GET /v1/hooks.
type hooksReply struct {
	Hooks []events.Hook `json:"hooks"`
}

// hookHandlers answer the calls about hooks.
type hookHandlers struct {
	service Hooks
	log     zerolog.Logger
}

// list answers GET /v1/hooks.
func (h hookHandlers) list(c *call) error {
	list, err := h.service.Hooks(c.Ctx)
	return c.answer(http.StatusOK, hooksReply{list}, err)
}

// replay answers POST /v1/hooks/{hook}/replay.
func (h hookHandlers) replay(c *call, hook string) error {
	fromMS, err := decodeField(c, "from_ms", func(r *jsonread.Reader) (int64, error) { return r.Integer(1, math.MaxInt64) })
	if err != nil {
		return err
	}
	if fromMS == 0 {
		return envelope.Invalid("from_ms", "is missing: the time of the first event, in Unix milliseconds")
	}
	if err := h.service.ReplayHook(c.Ctx, hook, fromMS); err != nil {
		return fmt.Errorf("replay the hook: %w", err)
	}
	h.log.Warn().Str("hook", hook).Str("key", c.Caller).Msg("a replay is asked for")
	return c.Reply(http.StatusAccepted, struct{}{})
}

// retry answers POST /v1/hooks/{hook}/retry: the dead letters are posted again.
func (h hookHandlers) retry(c *call, hook string) error {
	if err := h.service.RetryHook(c.Ctx, hook); err != nil {
		return fmt.Errorf("post the dead letters again: %w", err)
	}
	return c.Reply(http.StatusAccepted, struct{}{})
}

// resume answers POST /v1/hooks/{hook}/resume.
func (h hookHandlers) resume(c *call, hook string) error {
	if err := h.service.ResumeHook(c.Ctx, hook); err != nil {
		return fmt.Errorf("resume the hook: %w", err)
	}
	return c.Reply(http.StatusOK, struct{}{})
}
