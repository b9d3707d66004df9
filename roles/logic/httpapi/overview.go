package httpapi

import (
	"net/http"

	"github.com/rs/zerolog"

	"imgo/roles/logic"
)

// serverHandlers answer the calls about the server as a whole.
type serverHandlers struct {
	service    Overview
	log        zerolog.Logger
	transports []string // see Config.Transports
}

// stats answers GET /v1/stats.
func (h serverHandlers) stats(c *call) error {
	s, err := h.service.Stats(c.Ctx)
	if err != nil {
		return err
	}
	if s.Comets == nil {
		s.Comets = map[string]int{}
	}
	if s.Pushes == nil {
		s.Pushes = map[string]uint64{}
	}
	return c.Reply(http.StatusOK, s)
}

// nodes answers GET /v1/nodes.
func (h serverHandlers) nodes(c *call) error {
	list := append([]logic.NodeInfo{}, h.service.Nodes(c.Ctx)...)
	for i := range list {
		if list[i].Roles == nil {
			list[i].Roles = []string{}
		}
	}
	return c.Reply(http.StatusOK, map[string]any{"nodes": list})
}

// maxNotices bounds the notices of one answer.
const maxNotices = 1000

// notices answers GET /v1/notices?after=: "last" is what to ask after next time.
// The newest 1,000 are held, by the logic that was asked, since its start.
func (h serverHandlers) notices(c *call) error {
	after, err := c.Number("after", 0, 0, 1<<53-1)
	if err != nil {
		return err
	}
	limit, err := c.Number("limit", 100, 1, maxNotices)
	if err != nil {
		return err
	}
	list := h.service.Notices(uint64(after), int(limit)) // number bounds it from 0
	if list == nil {
		list = []logic.Notice{}
	}
	last := uint64(after) // likewise
	if len(list) > 0 {
		last = list[len(list)-1].Seq
	}
	return c.Reply(http.StatusOK, map[string]any{"notices": list, "last": last})
}
