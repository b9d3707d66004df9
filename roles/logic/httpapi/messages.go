package httpapi

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/internal/events"
)

// messageView is a kept message that waits, as the API shows it.
type messageView struct {
	ID        string `json:"id"`
	Ref       string `json:"ref,omitempty"`
	Op        int32  `json:"op"`
	Size      uint32 `json:"size"`
	TimeMS    int64  `json:"time_ms"`
	ExpiresMS int64  `json:"expires_ms"`
	// Exactly one of the three is there if bodies were asked for.
	Body       json.RawMessage `json:"body,omitempty"`
	BodyText   *string         `json:"body_text,omitempty"`
	BodyBase64 *string         `json:"body_base64,omitempty"`
	// Waiting are the devices that have yet to acknowledge.
	Waiting []string `json:"waiting"`
	// Unclaimed is set if the user had no device. The first one gets the message.
	Unclaimed bool `json:"unclaimed,omitempty"`

	Report     string `json:"report"`
	DeadlineMS int64  `json:"deadline_ms,omitempty"`
	DeadlineIf string `json:"deadline_if,omitempty"`
	Missed     bool   `json:"missed,omitempty"`
}

// messageDevice is what is known of a message on one device.
type messageDevice struct {
	Device string `json:"device"`
	// State is waiting, delivered, or forgotten: the device was forgotten while the message waited for it.
	State string `json:"state"`
	// TimeMS is when it was delivered.
	TimeMS int64 `json:"time_ms,omitempty"`
}

func viewMessage(m *envelope.WaitingMessage, bodies bool) messageView {
	report := m.GetTracked().GetReport()
	v := messageView{
		ID: strconv.FormatUint(m.Id, 10), Ref: report.GetRef(), Op: m.Op, Size: m.Size, TimeMS: m.TimeMs, ExpiresMS: m.ExpiresMs,
		Waiting: m.Waiting, Unclaimed: m.Unclaimed, Report: events.Level(report.GetLevel()).String(), DeadlineMS: report.GetDeadlineMs(),
		Missed: m.GetTracked().GetDecided(),
	}
	if v.Waiting == nil {
		v.Waiting = []string{}
	}
	if v.DeadlineMS > 0 {
		v.DeadlineIf = "none_delivered"
		if report.GetDeadlineAny() {
			v.DeadlineIf = "any"
		}
	}
	if bodies {
		switch {
		case !utf8.Valid(m.Body): // json.Valid does not look at the bytes of strings
			text := base64.StdEncoding.EncodeToString(m.Body)
			v.BodyBase64 = &text
		case json.Valid(m.Body):
			v.Body = m.Body
		default:
			text := string(m.Body)
			v.BodyText = &text
		}
	}
	return v
}

// viewDevices returns what is known of a message on each device, by name.
func viewDevices(m *envelope.WaitingMessage) []messageDevice {
	devices := []messageDevice{}
	for _, r := range m.GetTracked().GetReceipts() {
		devices = append(devices, messageDevice{Device: r.Device, State: "delivered", TimeMS: r.TimeMs})
	}
	for _, d := range m.GetTracked().GetWithout() {
		devices = append(devices, messageDevice{Device: d, State: "forgotten"})
	}
	for _, d := range m.Waiting {
		devices = append(devices, messageDevice{Device: d, State: "waiting"})
	}
	slices.SortStableFunc(devices, func(a, b messageDevice) int { return cmp.Compare(a.Device, b.Device) })
	return devices
}

const (
	// maxMessages bounds the messages of one answer.
	maxMessages = 1000
	// maxExplaining bounds the messages that are being explained at the same time. Each call reads much of the log.
	maxExplaining = 8
)

// messageHandlers answer the calls about a user's messages.
type messageHandlers struct {
	service Users
	// explaining has a place for each message that is being explained.
	explaining chan struct{}
}

// list answers GET /v1/users/{user}/messages and /v1/user/messages?user=…: those that wait, oldest first.
func (h messageHandlers) list(c *call, user string) error {
	limit, err := c.Number("limit", 100, 1, maxMessages)
	if err != nil {
		return err
	}
	var after uint64
	if c.Params().Has("cursor") {
		if after, err = messageID("cursor", c.Param("cursor")); err != nil {
			return err
		}
	}
	bodies, err := c.flag("bodies")
	if err != nil {
		return err
	}
	r, err := h.service.Messages(c.Ctx, &envelope.MessagesRequest{User: user, After: after, MaxMessages: uint32(limit), Bodies: bodies})
	if err != nil {
		return err
	}
	answer := struct {
		User     string        `json:"user"`
		Messages []messageView `json:"messages"`
		Next     string        `json:"next,omitempty"`
	}{User: user, Messages: []messageView{}}
	for _, m := range r.Messages {
		answer.Messages = append(answer.Messages, viewMessage(m, bodies))
	}
	if n := len(answer.Messages); r.More && n > 0 {
		answer.Next = answer.Messages[n-1].ID
	}
	return c.Reply(http.StatusOK, answer)
}

// get answers GET /v1/users/{user}/messages/{id} and /v1/user/messages/{id}?user=…: one that waits, with what is known
// of it on each device.
func (h messageHandlers) get(c *call, user string) error {
	id, err := messageID("id", c.R.PathValue("id"))
	if err != nil {
		return err
	}
	r, err := h.service.Messages(c.Ctx, &envelope.MessagesRequest{User: user, Id: id, MaxMessages: 1, Bodies: true})
	if err != nil {
		return err
	}
	if len(r.Messages) == 0 {
		return envelope.Errorf(envelope.CodeNotFound, "message %d does not wait for user %q: every device has it, it has expired, "+
			"or there was none; its events say which, if its push asked for a report", id, user)
	}
	return c.Reply(http.StatusOK, struct {
		messageView
		Devices []messageDevice `json:"devices"`
	}{viewMessage(r.Messages[0], true), viewDevices(r.Messages[0])})
}

// explain answers GET /v1/users/{user}/messages/{id}/explain and /v1/user/messages/{id}/explain?user=…: what became of a
// message, whether it waits or not.
func (h messageHandlers) explain(c *call, user string) error {
	id, err := messageID("id", c.R.PathValue("id"))
	if err != nil {
		return err
	}
	select {
	case h.explaining <- struct{}{}:
		defer func() { <-h.explaining }()
	default:
		return envelope.Errorf(envelope.CodeUnavailable, "too many messages are being explained (limit %d)", maxExplaining)
	}
	x, err := h.service.Explain(c.Ctx, user, id)
	return c.answer(http.StatusOK, x, err)
}

// messageID reads the id of a message: digits. No message has an id of more than 64 bits, so such a number is
// the largest id.
func messageID(field, text string) (uint64, error) {
	digits := strings.Trim(text, "0123456789") == ""
	id, err := strconv.ParseUint(text, 10, 64)
	if digits && errors.Is(err, strconv.ErrRange) {
		return math.MaxUint64, nil
	}
	if !digits || err != nil {
		return 0, envelope.Invalid(field, fmt.Sprintf("is %q: it must be the id of a message", text))
	}
	return id, nil
}

// flag reads true or false of the query; false if it is missing.
func (c *call) flag(name string) (bool, error) {
	if !c.Params().Has(name) {
		return false, nil
	}
	switch c.Param(name) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, envelope.Invalid(name, "must be true or false")
}
