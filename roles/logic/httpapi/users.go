package httpapi

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/protocol"
	"imgo/roles/logic"
)

// sessionView is a client connection as the API shows it.
type sessionView struct {
	// Name consists of the comet and its number for the session. Kick takes it.
	Name       string   `json:"name"`
	User       string   `json:"user"`
	Device     string   `json:"device"`
	Key        string   `json:"key"`
	GlobalKey  bool     `json:"global_key"`
	Platform   string   `json:"platform"`
	Address    string   `json:"address"`
	Transport  string   `json:"transport"`
	Generation string   `json:"generation"`
	Node       string   `json:"node"`
	SinceMS    int64    `json:"since_ms"`
	Rooms      []string `json:"rooms"`
	Accepts    []int32  `json:"accepts"`
}

// viewSessions never returns nil, since an empty list is [] in JSON.
func viewSessions(sessions []*envelope.SessionInfo) []sessionView {
	views := make([]sessionView, 0, len(sessions))
	for _, s := range sessions {
		name := s.GetAddress().AsKey().Name()
		v := sessionView{
			Name: name, Key: cmp.Or(s.GetKey(), name),
			User: s.GetUser(), Device: s.GetDevice(), GlobalKey: s.GetGlobalKey(), Platform: s.GetPlatform(),
			Address: s.GetRemote(), Transport: s.GetTransport(), Generation: s.GetGeneration(),
			Node: s.GetAddress().GetComet(), SinceMS: s.GetSinceMs(), Rooms: s.GetRooms(), Accepts: s.GetAccepts(),
		}
		if v.Rooms == nil {
			v.Rooms = []string{}
		}
		if v.Accepts == nil {
			v.Accepts = []int32{}
		}
		views = append(views, v)
	}
	return views
}

// userView is GET /v1/users/{user}.
type userView struct {
	User     string        `json:"user"`
	Online   bool          `json:"online"`
	Sessions []sessionView `json:"sessions"`
	Devices  []deviceView  `json:"devices"`
	// Pending counts the kept messages that some device has yet to
	// acknowledge. The ids are "0" if there are none.
	Pending    uint32 `json:"pending"`
	OldestID   string `json:"oldest_id"`
	NewestID   string `json:"newest_id"`
	Dropped    uint64 `json:"dropped"`
	LastSeenMS int64  `json:"last_seen_ms"`
	// SinceMS is when the user came online, or went, or 0 if that is not known.
	SinceMS int64 `json:"since_ms"`
}

// deviceView is a device that the user's mailbox knows. The device without a
// name stands for all sessions that named none.
type deviceView struct {
	Device     string `json:"device"`
	Online     bool   `json:"online"`
	LastSeenMS int64  `json:"last_seen_ms"`
	Pending    uint32 `json:"pending"`
}

// userHandlers answer the calls about users, but those about their messages and tokens.
type userHandlers struct {
	service Users
	max     int // users in one call
}

// get answers GET /v1/users/{user} and GET /v1/user?user=…. An unknown user looks
// like any user who is offline, since the server keeps no list of users.
func (h userHandlers) get(c *call, user string) error {
	r, err := h.service.User(c.Ctx, user)
	if err != nil {
		return err
	}
	view := userView{
		User: user, Online: len(r.GetSessions()) > 0, Sessions: viewSessions(r.GetSessions()),
		Devices: make([]deviceView, 0, len(r.GetDevices())),
		Pending: r.GetPending(), OldestID: decimal(r.GetOldestId()), NewestID: decimal(r.GetNewestId()),
		Dropped: r.GetDropped(), LastSeenMS: r.GetLastSeenMs(), SinceMS: r.GetSinceMs(),
	}
	for _, d := range r.GetDevices() {
		view.Devices = append(view.Devices, deviceView{
			Device: d.GetDevice(), Online: d.GetOnline(), LastSeenMS: d.GetSeenMs(), Pending: d.GetPending(),
		})
	}
	return c.Reply(http.StatusOK, view)
}

// decimal returns a message id as text. JavaScript would lose the last digits of
// a number of 64 bits.
func decimal(id uint64) string { return strconv.FormatUint(id, 10) }

// onlineView is one user of GET /v1/users and POST /v1/users/online.
type onlineView struct {
	User     string `json:"user"`
	Online   bool   `json:"online"`
	Sessions int    `json:"sessions"`
}

// maxIDs bounds the users in the query of GET /v1/users.
const maxIDs = 1000

// online answers GET /v1/users?ids=a,b (also ids=a&ids=b, for names that
// have a comma).
func (h userHandlers) online(c *call) error {
	values := c.Params()["ids"]
	users := values
	if len(values) == 1 {
		users = strings.Split(values[0], ",")
	}
	switch {
	case len(values) == 0:
		return envelope.Invalid("ids", "is missing: name the users, such as ?ids=alice,bob")
	case len(users) > maxIDs:
		return envelope.Invalid("ids", fmt.Sprintf("has more than %d entries; POST /v1/users/online takes more", maxIDs))
	}
	return h.replyOnline(c, "ids", users)
}

// onlineList answers POST /v1/users/online.
func (h userHandlers) onlineList(c *call) error {
	users, err := decodeField(c, "users", func(r *jsonread.Reader) ([]string, error) { return r.Texts(h.max) })
	if err != nil {
		return err
	}
	if len(users) == 0 {
		return envelope.Invalid("users", "is missing or empty")
	}
	return h.replyOnline(c, "users", users)
}

func (h userHandlers) replyOnline(c *call, field string, users []string) error {
	for i, user := range users {
		if err := envelope.CheckName(field, user); err != nil {
			return envelope.CheckName(fmt.Sprintf("%s[%d]", field, i), user)
		}
	}
	online, err := h.service.Online(c.Ctx, users)
	if err != nil {
		return err
	}
	views := make([]onlineView, len(users))
	for i, user := range users {
		views[i] = onlineView{User: user, Online: online[user] > 0, Sessions: online[user]}
	}
	return c.Reply(http.StatusOK, map[string]any{"users": views})
}

// kickRequest is the body of POST /v1/users/{user}/kick.
type kickRequest struct{ filter logic.KickFilter }

func (k *kickRequest) Field(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "device":
		if k.filter.Device, err = r.Text(); err == nil {
			err = envelope.CheckName(name, k.filter.Device)
		}
	case "session":
		if k.filter.Session, err = r.Text(); err == nil && (k.filter.Session == "" || len(k.filter.Session) > 2*protocol.MaxNameBytes) {
			err = envelope.Invalid(name, "is not a session's name; GET /v1/users/{user} lists them")
		}
	case "reason":
		if k.filter.Reason, err = r.Text(); err == nil && len(k.filter.Reason) > protocol.MaxReasonBytes {
			err = envelope.Invalid(name, fmt.Sprintf("is %d bytes long, at most %d are allowed", len(k.filter.Reason), protocol.MaxReasonBytes))
		}
	case "code":
		var code int64
		code, err = r.Integer(3000, 4999)
		k.filter.Code = protocol.CloseCode(min(code, math.MaxInt16)) // bounded by integer
	default:
		return jsonread.ErrUnknownField
	}
	return err
}

// kick answers POST /v1/users/{user}/kick and POST /v1/user/kick?user=…. It closes
// the user's sessions that match, and all of them if the request has no body.
func (h userHandlers) kick(c *call, user string) error {
	data, err := c.ReadBody()
	if err != nil {
		return err
	}
	req := &kickRequest{}
	if len(data) > 0 {
		if err := jsonread.Object(data, req); err != nil {
			return err
		}
	}
	if req.filter.Device != "" && req.filter.Session != "" {
		return envelope.Invalid("session", "cannot be there beside device: name one of them, or neither for all sessions")
	}
	n, err := h.service.Kick(c.Ctx, user, req.filter)
	return c.answer(http.StatusOK, map[string]int{"sessions": n}, err)
}
