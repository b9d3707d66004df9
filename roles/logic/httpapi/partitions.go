package httpapi

import (
	"fmt"
	"math"
	"net/http"

	"imgo/envelope"
	"imgo/internal/jsonread"
)

// partitions answers GET /v1/partitions.
func (h serverHandlers) partitions(c *call) error {
	p, err := h.service.Partitions(c.Ctx)
	return c.answer(http.StatusOK, p, err)
}

// grow answers POST /v1/partitions: it is begun, not done.
func (h serverHandlers) grow(c *call) error {
	kept, err := decodeField(c, "kept", func(r *jsonread.Reader) (int64, error) { return r.Integer(1, math.MaxInt32) })
	if err != nil {
		return err
	}
	if kept == 0 {
		return envelope.Invalid("kept", "is missing: how many partitions there are to be")
	}
	h.log.Warn().Int64("kept", kept).Str("key", c.Caller).Msg("more partitions are asked for")
	p, err := h.service.Grow(c.Ctx, int(kept))
	if err != nil {
		return fmt.Errorf("give the kept topic %d partitions: %w", kept, err)
	}
	return c.Reply(http.StatusAccepted, p)
}
