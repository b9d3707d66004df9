package auth

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/collectors"
	"imgo/internal/webhook"
	"imgo/protocol"
)

// maxJoin bounds the rooms of one answer. A comet has a bound of its own.
const maxJoin = 1000

// Webhook is the authenticator that asks the operator's backend about each
// client. Opaque tokens count only for the API of imgo 2016, which has no
// connection to ask about. Safe for concurrent use.
type Webhook struct {
	*Opaque
	caller *webhook.Caller
	log    zerolog.Logger
}

// NewWebhook returns a Webhook.
func NewWebhook(cfg Config, opaque *Opaque, log zerolog.Logger, reg prometheus.Registerer) (*Webhook, error) {
	caller, err := NewCaller(cfg, cfg.WebhookURL, reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "imgo_logic_auth_webhook_seconds", Help: "Calls of the webhook that decides about clients" + ByOutcome, Buckets: CallBuckets,
	}, []string{"outcome"}))
	if err != nil {
		return nil, err
	}
	return &Webhook{Opaque: opaque, caller: caller, log: log}, nil
}

// ByOutcome is the end of the help of a metric of calls of a webhook, which has the label outcome.
const ByOutcome = ", by outcome: answered, failed (no good answer), refused (not called: after failures in a row, or with too many calls " +
	"under way)."

// CallBuckets are the buckets of such a metric.
var CallBuckets = prometheus.ExponentialBuckets(0.001, 2.5, 10)

// NewCaller returns a caller of an address, as the settings of webhooks say. seconds is the metric of its calls.
func NewCaller(cfg Config, address string, reg prometheus.Registerer, seconds *prometheus.HistogramVec) (*webhook.Caller, error) {
	observe, err := ObserveCalls(reg, seconds)
	if err != nil {
		return nil, err
	}
	return webhook.New(webhook.Config{
		URL: address, Secrets: cfg.WebhookSecrets, Timeout: cfg.WebhookTimeout, InFlight: cfg.WebhookInFlight, Observe: observe,
	})
}

// ObserveCalls registers the metric of calls of a webhook, and returns what a Caller tells of each.
func ObserveCalls(reg prometheus.Registerer, seconds *prometheus.HistogramVec) (func(outcome string, took time.Duration), error) {
	if _, err := collectors.Register(reg, seconds); err != nil {
		return nil, fmt.Errorf("register the metric of a webhook: %w", err)
	}
	return func(outcome string, took time.Duration) { seconds.WithLabelValues(outcome).Observe(took.Seconds()) }, nil
}

// Run closes the connections to the backend when ctx is done.
func (w *Webhook) Run(ctx context.Context) {
	<-ctx.Done()
	w.caller.Close()
}

// connectCall is what the backend is asked.
type connectCall struct {
	Type string `json:"type"`
	// User and Session are there if the session is live already.
	User    string `json:"user,omitempty"`
	Session string `json:"session,omitempty"`
	// Auth is the auth body: as it is if it is JSON, else as a string. AuthBase64
	// is there instead if it is neither JSON nor text.
	Auth       json.RawMessage     `json:"auth,omitempty"`
	AuthBase64 string              `json:"auth_base64,omitempty"`
	Address    string              `json:"address"`
	Transport  string              `json:"transport"`
	Generation string              `json:"generation"`
	Device     string              `json:"device,omitempty"`
	Key        string              `json:"key,omitempty"`
	Platform   string              `json:"platform,omitempty"`
	Rooms      []string            `json:"rooms,omitempty"`
	Headers    map[string][]string `json:"headers,omitempty"`
}

// connectAnswer is what the backend answers. A client is refused by the statuses 401
// and 403, or by Refuse.
type connectAnswer struct {
	User      json.RawMessage `json:"user"`
	Device    string          `json:"device"`
	Key       string          `json:"key"`
	ExpiresMS int64           `json:"expires_ms"`
	Rooms     []string        `json:"rooms"`
	Refuse    string          `json:"refuse"`
}

// errNoAnswer tells a client to come back: nobody has said that it may not.
var errNoAnswer = envelope.Errorf(envelope.CodeAuthUnavailable, "the backend that decides about clients does not answer")

// Decide returns who the client of a connect is. If the backend refuses the client, the error is an
// *envelope.Error with the reason. If the backend does not answer, or its answer cannot be used, the error has
// the code envelope.CodeAuthUnavailable.
func (w *Webhook) Decide(ctx context.Context, r *envelope.ConnectRequest) (Identity, error) {
	return w.ask(ctx, callOf("connect", r))
}

// DecideAgain returns who the client of a live session is, which has sent a new token. The backend
// gets the same call as for a connect, without the headers of the handshake and with the session's user. Errors
// are those of Decide.
func (w *Webhook) DecideAgain(ctx context.Context, r *envelope.RefreshRequest) (Identity, error) {
	call := callOf("refresh", &envelope.ConnectRequest{Session: r.GetSession(), AuthBody: r.GetAuthBody()})
	call.User, call.Session = r.GetSession().GetUser(), r.GetSession().GetAddress().AsKey().Name()
	return w.ask(ctx, call)
}

func (w *Webhook) ask(ctx context.Context, call connectCall) (Identity, error) {
	document, err := json.Marshal(call)
	if err != nil {
		return Identity{}, fmt.Errorf("write the call of the webhook: %w", err)
	}
	answer, err := w.caller.Post(ctx, call.Type+"_"+rand.Text(), document)
	if err != nil {
		w.log.Debug().Err(err).Msg("the webhook has not decided about a client")
		return Identity{}, errNoAnswer
	}
	id, err := w.read(answer, call.Key)
	var refused *envelope.Error
	if err != nil && !errors.As(err, &refused) {
		w.log.Warn().Err(err).Int("status",
			answer.Status).Msg("the webhook's answer about a client cannot be used: the client is told to come back")
		return Identity{}, errNoAnswer
	}
	return id, err
}

func callOf(kind string, r *envelope.ConnectRequest) connectCall {
	s := r.GetSession()
	call := connectCall{
		Type: kind, Address: s.GetRemote(), Transport: s.GetTransport(), Generation: s.GetGeneration(),
		Device: s.GetDevice(), Key: s.GetKey(), Platform: s.GetPlatform(), Rooms: s.GetRooms(),
	}
	switch body := r.GetAuthBody(); {
	case !utf8.Valid(body): // json.Valid does not look at the bytes of strings
		call.AuthBase64 = base64.StdEncoding.EncodeToString(body)
	case json.Valid(body):
		call.Auth = body
	default:
		call.Auth, _ = json.Marshal(string(body)) // text always encodes
	}
	for _, h := range r.GetHeaders() {
		if call.Headers == nil {
			call.Headers = make(map[string][]string)
		}
		call.Headers[h.GetName()] = append(call.Headers[h.GetName()], h.GetValue())
	}
	return call
}

// read returns the identity of an answer about a client that chose a key. A refusal
// of the client is an *envelope.Error. Any other error says that the answer is of no
// use.
func (w *Webhook) read(answer webhook.Answer, key string) (Identity, error) {
	var doc connectAnswer
	err := json.Unmarshal(answer.Body, &doc)
	switch {
	case answer.Status == http.StatusUnauthorized || answer.Status == http.StatusForbidden:
		return Identity{}, refusedBy(doc.Refuse) // also without a document
	case !answer.OK():
		return Identity{}, fmt.Errorf("status %d", answer.Status)
	case err != nil:
		return Identity{}, errors.New("it is not a JSON object of the right types")
	case doc.Refuse != "":
		return Identity{}, refusedBy(doc.Refuse)
	}
	if doc.Key != "" && doc.Key != key {
		return Identity{}, refusedBy("the key is not the client's")
	}
	id := Identity{Device: doc.Device, Key: doc.Key, ExpiresMS: doc.ExpiresMS, Join: doc.Rooms}
	if id.User, err = userOf(doc.User); err != nil {
		return Identity{}, err
	}
	if id.Device != "" {
		if err := checkAnswer("device", id.Device); err != nil {
			return Identity{}, err
		}
	}
	if id.ExpiresMS < 0 || len(id.Join) > maxJoin {
		return Identity{}, fmt.Errorf("expires_ms must not be negative, and rooms have at most %d entries", maxJoin)
	}
	for _, room := range id.Join {
		if err := checkAnswer("rooms", room); err != nil {
			return Identity{}, err
		}
	}
	if id.ExpiresMS != 0 && id.ExpiresMS <= w.now().UnixMilli() {
		return Identity{}, errTokenExpired
	}
	return id, nil
}

// userOf reads a user: text, or an integer.
func userOf(raw json.RawMessage) (string, error) {
	var name string
	if json.Unmarshal(raw, &name) != nil {
		n, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return "", errors.New("user is missing, or neither text nor an integer")
		}
		name = strconv.FormatInt(n, 10)
	}
	return name, checkAnswer("user", name)
}

// checkAnswer checks a name in an answer. Its error is none of the client's.
func checkAnswer(field, name string) error {
	if err := envelope.CheckName(field, name); err != nil {
		return errors.New(err.Error())
	}
	return nil
}

// refusedBy is the error of a client that the backend refuses.
func refusedBy(reason string) error {
	return envelope.Errorf(envelope.CodeUnauthorized, "%s", Reason(reason, "the client was refused"))
}

// Reason returns what a client is told of a backend's refusal: the backend's own reason if it is
// one, else another.
func Reason(reason, other string) string {
	if reason == "" || len(reason) > protocol.MaxReasonBytes || !utf8.ValidString(reason) {
		return other
	}
	return reason
}
