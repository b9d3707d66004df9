package logic

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/upstream"
	"imgo/internal/webhook"
	"imgo/roles/logic/auth"
)

// upstreamRetry is when a client may send a message again that could not be taken.
const upstreamRetry = time.Second

// upstreamHandler takes messages of clients for the backend, as the rules say.
type upstreamHandler struct {
	*shared
	rules upstream.Table
	calls map[int]*webhook.Caller // by the index of their rule
}

// Upstream takes a message of a client. It returns once the message is durable, or once the backend has answered.
// A message that is refused is an answer with a code. An error says that the message may not have been taken: the
// caller may repeat the call. The session is believed: comet has it from Connect.
func (h *upstreamHandler) Upstream(ctx context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	index, rule := h.rules.Find(r.GetOp())
	timeout := h.life.callTimeout
	if rule != nil && rule.To == upstream.ToCall {
		timeout += rule.Timeout
	}
	ctx, end, err := h.life.beginWithin(ctx, timeout)
	if err != nil {
		return nil, err
	}
	defer end()
	to := upstream.ToDrop
	if rule != nil {
		to = rule.To
	}
	reply, err := h.accept(ctx, r, index, to)
	outcome := outcome(err)
	if reply.GetCode() != "" {
		outcome = reply.GetCode()
	}
	h.metrics.upstream.WithLabelValues(to, outcome).Inc()
	return reply, err
}

// accept does what the rule with an index says.
func (h *upstreamHandler) accept(ctx context.Context, r *envelope.UpstreamRequest, index int, to string) (*envelope.UpstreamReply, error) {
	if refused := h.check(r); refused != nil {
		return refused, nil
	}
	switch to {
	case upstream.ToEvents:
		return h.toEvents(ctx, r)
	case upstream.ToCall:
		return h.call(ctx, r, h.calls[index])
	}
	return refuseUpstream(envelope.CodeUnsupported, "no rule of this server takes the message: it went nowhere"), nil
}

// check returns the refusal of a message that is not valid, or nil.
func (h *upstreamHandler) check(r *envelope.UpstreamRequest) *envelope.UpstreamReply {
	s := r.GetSession()
	if err := cmp.Or(envelope.CheckName("user", s.GetUser()), checkOptional("device", s.GetDevice())); err != nil {
		return refuseUpstream(envelope.CodeInvalid, err.Error())
	}
	switch {
	case len(r.GetBody()) > h.cfg.MaxBody:
		return refuseUpstream(envelope.CodeTooLarge,
			fmt.Sprintf("the body has %d bytes, at most %d are allowed", len(r.GetBody()), h.cfg.MaxBody))
	case r.GetClientId() != 0 && (s.GetDevice() == "" || s.IsAnonymous()):
		return refuseUpstream(envelope.CodeInvalid, "a message with an id needs a session of a user and a named device: "+
			"name one in the auth packet, or send the id 0")
	}
	return nil
}

// refuseUpstream returns the answer to a message for which no other try will succeed.
func refuseUpstream(code envelope.Code, reason string) *envelope.UpstreamReply {
	return &envelope.UpstreamReply{Code: string(code), Reason: reason}
}

// tryUpstreamLater returns the answer to a message for which another try may succeed, after a while.
func tryUpstreamLater(reason string, after time.Duration) *envelope.UpstreamReply {
	return &envelope.UpstreamReply{
		Code: string(envelope.CodeUnavailable), Reason: reason, RetryMs: uint32(max(after, upstreamRetry).Milliseconds()),
	}
}

// toEvents puts a message into the log of its user. The owner makes it an event.
func (h *upstreamHandler) toEvents(ctx context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	if len(r.GetBody()) > events.MaxBody {
		return refuseUpstream(envelope.CodeTooLarge,
			fmt.Sprintf("the body has %d bytes, an event has room for %d", len(r.GetBody()), events.MaxBody)), nil
	}
	if err := h.kept.require(ctx, envelope.RecordVersionClients); err != nil {
		h.warn.log(err, "messages of clients are refused")
		return tryUpstreamLater("the server cannot take messages until its upgrade is finished; try again later", 0), nil
	}
	s := r.GetSession()
	rec := &envelope.Record{Upstream: &envelope.Upstream{
		User: s.GetUser(), Device: s.GetDevice(), Session: s.GetAddress().AsKey().Name(), Op: r.GetOp(), Body: r.GetBody(),
		ClientId: r.GetClientId(),
	}}
	if len(r.GetId()) == len(envelope.NewRecordID()) {
		rec.Id = r.GetId() // a repeated call appends the same record
	}
	if _, err := h.kept.append(ctx, s.GetUser(), "append the message of a client", rec, false); err != nil {
		return nil, err
	}
	return &envelope.UpstreamReply{}, nil
}

// newUpstreamCalls returns what the rules call, by the index of the rule. Each has calls, and a circuit breaker, of its own.
func newUpstreamCalls(cfg Config, reg prometheus.Registerer) (map[int]*webhook.Caller, error) {
	observe, err := auth.ObserveCalls(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "imgo_logic_upstream_call_seconds", Help: "Calls with a message of a client" + auth.ByOutcome, Buckets: auth.CallBuckets,
	}, []string{"outcome"}))
	if err != nil {
		return nil, err
	}
	calls := make(map[int]*webhook.Caller)
	for i, rule := range cfg.Upstream.Upstream {
		if rule.To != upstream.ToCall {
			continue
		}
		calls[i], err = webhook.New(webhook.Config{
			URL: rule.URL, Secrets: rule.Secrets, Timeout: rule.Timeout, InFlight: rule.InFlight, MaxAnswer: int64(cfg.MaxBody), Observe: observe,
		})
		if err != nil {
			return nil, fmt.Errorf("upstream: table %d: %w", i+1, err)
		}
	}
	return calls, nil
}

// upstreamDocument is what a call posts. The body follows, as body, body_text or body_base64: see events.AppendBody.
type upstreamDocument struct {
	Type string `json:"type"`
	sessionDocument
	Op       int32  `json:"op"`
	ClientID string `json:"client_id,omitempty"`
}

// upstreamRefusal may be the body of an answer that refuses a message.
type upstreamRefusal struct {
	Refuse string `json:"refuse"`
}

// call posts a message and returns the backend's answer.
func (h *upstreamHandler) call(ctx context.Context, r *envelope.UpstreamRequest, to *webhook.Caller) (*envelope.UpstreamReply, error) {
	document, err := upstreamJSON(r)
	if err != nil {
		return nil, err
	}
	answer, err := to.Post(ctx, upstreamCallID(r), document)
	switch {
	case errors.Is(err, webhook.ErrUnavailable):
		h.log.Debug().Err(err).Int32("op", r.GetOp()).Msg("the backend has not answered a message of a client")
		return tryUpstreamLater("the backend does not answer; try again later", answer.RetryAfter), nil
	case err != nil:
		return nil, fmt.Errorf("call the backend with a message: %w", err)
	case answer.OK():
		return &envelope.UpstreamReply{Body: answer.Body}, nil
	}
	code := envelope.CodeInvalid
	switch answer.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		code = envelope.CodeForbidden
	case http.StatusRequestEntityTooLarge:
		code = envelope.CodeTooLarge
	}
	var why upstreamRefusal
	_ = json.Unmarshal(answer.Body, &why) // the body may be anything
	return refuseUpstream(code, auth.Reason(why.Refuse, "the backend refuses the message")), nil
}

// upstreamJSON returns the document of a message.
func upstreamJSON(r *envelope.UpstreamRequest) ([]byte, error) {
	doc := upstreamDocument{Type: "upstream", sessionDocument: documentOf(r.GetSession()), Op: r.GetOp()}
	if id := r.GetClientId(); id != 0 {
		doc.ClientID = strconv.FormatUint(id, 10)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("write the call with a message: %w", err)
	}
	return append(events.AppendBody(b[:len(b)-1], r.GetBody()), '}'), nil
}

// upstreamCallID returns the id of a call. It is the same for a repeated call, and for a message that the client
// sends again with its id, so that the backend can drop the repetition.
func upstreamCallID(r *envelope.UpstreamRequest) string {
	if r.GetClientId() == 0 {
		return "up_" + hex.EncodeToString(r.GetId())
	}
	sum := sha256.New()
	for _, part := range [][]byte{
		[]byte(r.GetSession().GetUser()), []byte(r.GetSession().GetDevice()), binary.BigEndian.AppendUint64(nil, r.GetClientId()),
		binary.BigEndian.AppendUint32(nil, uint32(r.GetOp())), r.GetBody(),
	} {
		sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		sum.Write(part)
	}
	return "up_" + hex.EncodeToString(sum.Sum(nil)[:16])
}
