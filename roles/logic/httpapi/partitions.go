package httpapi

import (
	"fmt"
	"math"
	"net/http"

	"imgo/envelope"
	"imgo/internal/jsonread"
)

// growRequest is the body of POST /v1/partitions.
type growRequest struct{ kept int64 }

func (g *growRequest) Field(r *jsonread.Reader, name string) (err error) {
	if name != "kept" {
		return jsonread.ErrUnknownField
	}
	g.kept, err = r.Integer(1, math.MaxInt32)
	return err
}

// partitions answers GET /v1/partitions.
func (h serverHandlers) partitions(c *call) error {
	if err := c.Known(); err != nil {
		return err
	}
	p, err := h.service.Partitions(c.Ctx)
	if err != nil {
		return err
	}
	return c.Reply(http.StatusOK, p)
}

// grow answers POST /v1/partitions: it is begun, not done.
func (h serverHandlers) grow(c *call) error {
	req := &growRequest{}
	if err := c.decode(req); err != nil {
		return err
	}
	if req.kept == 0 {
		return envelope.Invalid("kept", "is missing: how many partitions there are to be")
	}
	h.log.Warn().Int64("kept", req.kept).Str("key", c.Caller).Msg("more partitions are asked for")
	p, err := h.service.Grow(c.Ctx, int(req.kept))
	if err != nil {
		return fmt.Errorf("give the kept topic %d partitions: %w", req.kept, err)
	}
	return c.Reply(http.StatusAccepted, p)
}
