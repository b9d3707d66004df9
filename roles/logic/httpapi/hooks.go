package httpapi

import (
	"cmp"
	"fmt"
	"math"
	"net/http"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/roles/logic"
)

// hooksReply is the body of GET /v1/hooks.
type hooksReply struct {
	Hooks []logic.Hook `json:"hooks"`
}

// hooks answers GET /v1/hooks.
func (a *API) hooks(c *call) error {
	if err := c.Known(); err != nil {
		return err
	}
	list, err := a.service.Hooks(c.Ctx)
	if err != nil {
		return err
	}
	return c.Reply(http.StatusOK, hooksReply{list})
}

// replayRequest is the body of POST /v1/hooks/{hook}/replay.
type replayRequest struct{ fromMS int64 }

func (q *replayRequest) Field(r *jsonread.Reader, name string) (err error) {
	if name != "from_ms" {
		return jsonread.ErrUnknownField
	}
	q.fromMS, err = r.Integer(1, math.MaxInt64)
	return err
}

// replayHook answers POST /v1/hooks/{hook}/replay.
func (a *API) replayHook(c *call) error {
	data, err := c.ReadBody()
	if err != nil {
		return err
	}
	req := &replayRequest{}
	if err := jsonread.Object(data, req); err != nil {
		return err
	}
	if req.fromMS == 0 {
		return envelope.Invalid("from_ms", "is missing: the time of the first event, in Unix milliseconds")
	}
	hook, err := c.PathName("hook")
	if err != nil {
		return err
	}
	if err := a.service.ReplayHook(c.Ctx, hook, req.fromMS); err != nil {
		return fmt.Errorf("replay the hook: %w", err)
	}
	a.log.Warn().Str("hook", hook).Str("key", c.Caller).Msg("a replay is asked for")
	return c.Reply(http.StatusAccepted, struct{}{})
}

// retryHook answers POST /v1/hooks/{hook}/retry: the dead letters are posted again.
func (a *API) retryHook(c *call) error {
	hook, err := c.PathName("hook")
	if err := cmp.Or(err, c.Known()); err != nil {
		return err
	}
	if err := a.service.RetryHook(c.Ctx, hook); err != nil {
		return fmt.Errorf("post the dead letters again: %w", err)
	}
	return c.Reply(http.StatusAccepted, struct{}{})
}

// resumeHook answers POST /v1/hooks/{hook}/resume.
func (a *API) resumeHook(c *call) error {
	hook, err := c.PathName("hook")
	if err := cmp.Or(err, c.Known()); err != nil {
		return err
	}
	if err := a.service.ResumeHook(c.Ctx, hook); err != nil {
		return fmt.Errorf("resume the hook: %w", err)
	}
	return c.Reply(http.StatusOK, struct{}{})
}
