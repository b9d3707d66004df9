package logic

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/internal/webhook"
	"imgo/roles/logic/auth"
)

// newRoomWebhook returns the caller that asks the operator's backend whether a session may join a room, or nil if no rule asks. It has
// calls, and a circuit breaker, of its own: a backend that fails for rooms lets clients connect.
func newRoomWebhook(cfg Config, deps Deps) (*webhook.Caller, error) {
	if !cfg.Asks() {
		return nil, nil
	}
	caller, err := auth.NewCaller(cfg.Auth, cfg.Auth.RoomsWebhook(), deps.Metrics, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "imgo_logic_rooms_webhook_seconds", Help: "Calls of the webhook that decides about rooms" + auth.ByOutcome,
		Buckets: auth.CallBuckets,
	}, []string{"outcome"}))
	if err != nil {
		return nil, fmt.Errorf("rooms: %w", err)
	}
	return caller, nil
}

// joinCall is what the backend is asked.
type joinCall struct {
	Type string `json:"type"`
	Room string `json:"room"`
	sessionDocument
}

// sessionDocument is what a backend is told of a session.
type sessionDocument struct {
	User       string `json:"user"`
	Device     string `json:"device,omitempty"`
	Session    string `json:"session"`
	Key        string `json:"key,omitempty"`
	Platform   string `json:"platform,omitempty"`
	Address    string `json:"address"`
	Transport  string `json:"transport"`
	Generation string `json:"generation"`
}

func documentOf(s *envelope.SessionInfo) sessionDocument {
	return sessionDocument{
		User: s.GetUser(), Device: s.GetDevice(), Session: s.GetAddress().AsKey().Name(), Key: s.GetKey(), Platform: s.GetPlatform(),
		Address: s.GetRemote(), Transport: s.GetTransport(), Generation: s.GetGeneration(),
	}
}

// joinAnswer is what the backend answers. A client is refused by the statuses 401 and 403, or by
// Refuse. Allow must be there, so that a page that answers everything lets nobody in.
type joinAnswer struct {
	Allow     bool   `json:"allow"`
	Refuse    string `json:"refuse"`
	ExpiresMS int64  `json:"expires_ms"`
}

// askBackend returns until when a session may be in a room, in Unix milliseconds. 0 means for ever.
func (h *sessionHandler) askBackend(ctx context.Context, r *envelope.JoinRequest) (untilMS int64, err error) {
	call := joinCall{Type: "join", Room: r.GetRoom(), sessionDocument: documentOf(r.GetSession())}
	document, err := json.Marshal(call)
	if err != nil {
		return 0, fmt.Errorf("write the call of the webhook: %w", err)
	}
	answer, err := h.backend.Post(ctx, "join_"+rand.Text(), document)
	if err != nil {
		h.log.Debug().Err(err).Str("room", call.Room).Msg("the webhook has not decided about a room")
		return 0, errNoDecision
	}
	var doc joinAnswer
	bad := json.Unmarshal(answer.Body, &doc)
	switch {
	case answer.Status == http.StatusUnauthorized, answer.Status == http.StatusForbidden, answer.OK() && bad == nil && doc.Refuse != "":
		return 0, refusedRoom(call.Room, auth.Reason(doc.Refuse, "the backend does not let the client in"))
	case !answer.OK(), bad != nil, !doc.Allow, doc.ExpiresMS < 0:
		h.log.Warn().Int("status", answer.Status).AnErr("json", bad).Str("room", call.Room).
			Msg(`the webhook's answer about a room cannot be used: it must be {"allow":true}, perhaps with expires_ms, or {"refuse":"reason"}`)
		return 0, errNoDecision
	case doc.ExpiresMS != 0 && doc.ExpiresMS <= h.now().UnixMilli():
		return 0, refusedRoom(call.Room, "the time that the backend gave is over")
	}
	return doc.ExpiresMS, nil
}

// errNoDecision tells a client to ask again later: nobody has said that it may not join. Comet does not ask another logic,
// which would ask the same backend.
var errNoDecision = envelope.Errorf(envelope.CodeAuthUnavailable, "the backend that decides about the room does not answer")
