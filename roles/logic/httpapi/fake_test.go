package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// fakeService replaces the logic role. It records each call. A nil func field gives a small plausible
// answer.
type fakeService struct {
	// err, if set, is returned by every method that can fail.
	err error

	push    func(context.Context, *logic.PushCommand) (*logic.PushResult, error)
	user    func(string) (*envelope.UserReply, error)
	online  map[string]int
	rooms   map[string]uint32
	room    func(string, int) ([]*envelope.SessionInfo, int, error)
	stats   logic.Stats
	byComet map[string]int
	take    func(user string, afterMS int64, most int) (*envelope.TakeReply, error)
	nodes   func() []logic.NodeInfo
	notices func(uint64, int) []logic.Notice

	messages *envelope.MessagesReply
	asked    *envelope.MessagesRequest
	page     func(context.Context, events.Query) (*events.Page, error)
	query    events.Query
	explain  func()            // nil: nothing to wait for
	tokens   map[string]string // the users of tokens

	partitions logic.Partitions

	mu        sync.Mutex
	pushes    []*logic.PushCommand
	calls     []string
	kicked    logic.KickFilter
	read      *envelope.ReadRequest
	made      []madeToken
	madeRooms []string
	forgotten []string // comets
}

type madeToken struct {
	user   string
	ttl    time.Duration
	token  string
	single bool
}

func (f *fakeService) record(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	return f.err
}

// recorded returns the calls so far, or nil without a call.
func (f *fakeService) recorded() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// lastPush returns the newest push, or nil if there is none.
func (f *fakeService) lastPush() *logic.PushCommand {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pushes) == 0 {
		return nil
	}
	return f.pushes[len(f.pushes)-1]
}

func (f *fakeService) Push(ctx context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
	// The logic role checks the names of a push, not the API.
	for i, user := range cmd.Users {
		if err := envelope.CheckName(fmt.Sprintf("users[%d]", i), user); err != nil {
			return nil, err
		}
	}
	if cmd.Room != "" {
		if err := envelope.CheckName("room", cmd.Room); err != nil {
			return nil, err
		}
	}
	if err := f.record("push"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.pushes = append(f.pushes, cmd)
	f.mu.Unlock()
	if f.push != nil {
		return f.push(ctx, cmd)
	}
	result := &logic.PushResult{Sessions: len(cmd.Users)}
	for i, user := range cmd.Users {
		u := logic.UserResult{User: user, Sessions: 1}
		if cmd.Kept {
			u.ID = envelope.ID(1, int64(i))
		}
		result.Users = append(result.Users, u)
	}
	return result, nil
}

func (f *fakeService) User(_ context.Context, user string) (*envelope.UserReply, error) {
	if err := f.record("user " + user); err != nil {
		return nil, err
	}
	if f.user != nil {
		return f.user(user)
	}
	return &envelope.UserReply{}, nil
}

func (f *fakeService) Online(_ context.Context, users []string) (map[string]int, error) {
	return f.online, f.record("online " + strings.Join(users, "|"))
}

func (f *fakeService) UserTokens(_ context.Context, user string) ([]envelope.TokenInfo, error) {
	return []envelope.TokenInfo{{CreatedMS: 5, ExpiresMS: 9}, {CreatedMS: 6}}, f.record("list tokens of " + user)
}

func (f *fakeService) ForgetDevice(_ context.Context, user, device string) (logic.Removed, error) {
	return logic.Removed{Messages: 2, Devices: 1, Sessions: 1, LogUntilMS: 7}, f.record("forget " + user + " " + device)
}

func (f *fakeService) Purge(_ context.Context, user string) (logic.Removed, error) {
	return logic.Removed{Messages: 3, LogUntilMS: 7}, f.record("purge " + user)
}

func (f *fakeService) Erase(_ context.Context, user string) (logic.Removed, error) {
	return logic.Removed{Messages: 3, Devices: 2, Tokens: 1, Sessions: 1}, f.record("erase " + user)
}

func (f *fakeService) Kick(_ context.Context, user string, filter logic.KickFilter) (int, error) {
	f.mu.Lock()
	f.kicked = filter
	f.mu.Unlock()
	return 2, f.record("kick " + user)
}

func (f *fakeService) Read(_ context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error) {
	f.mu.Lock()
	f.read = r
	f.mu.Unlock()
	return &envelope.ReadReply{Sessions: 2}, f.record("read " + r.GetRead().GetUser())
}

func (f *fakeService) Take(_ context.Context, user string, afterMS int64, most int) (*envelope.TakeReply, error) {
	if err := f.record("take " + user); err != nil {
		return nil, err
	}
	if f.take != nil {
		return f.take(user, afterMS, most)
	}
	return &envelope.TakeReply{}, nil
}

func (f *fakeService) Rooms(context.Context) (map[string]uint32, error) {
	return f.rooms, f.record("rooms")
}

func (f *fakeService) Room(_ context.Context, room string, limit int) ([]*envelope.SessionInfo, int, error) {
	if err := f.record("room " + room); err != nil {
		return nil, 0, err
	}
	if f.room != nil {
		return f.room(room, limit)
	}
	return nil, 0, nil
}

func (f *fakeService) Stats(context.Context) (logic.Stats, error) { return f.stats, f.record("stats") }

func (f *fakeService) Nodes(context.Context) []logic.NodeInfo {
	if f.nodes != nil {
		return f.nodes()
	}
	return nil
}

func (f *fakeService) Messages(_ context.Context, r *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	if err := f.record("messages of " + r.User); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.asked = r
	f.mu.Unlock()
	if f.messages != nil {
		return f.messages, nil
	}
	one := &envelope.WaitingMessage{Id: 7, Op: 5, Size: 1, Body: []byte("1"), Waiting: []string{"phone"}}
	return &envelope.MessagesReply{Messages: []*envelope.WaitingMessage{one}}, nil
}

func (f *fakeService) Events(ctx context.Context, q events.Query) (*events.Page, error) {
	if err := f.record("events of " + q.User); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.query = q
	f.mu.Unlock()
	if f.page != nil {
		return f.page(ctx, q)
	}
	return &events.Page{Next: events.Cursor{Generation: 1}}, nil
}

func (f *fakeService) Notices(after uint64, limit int) []logic.Notice {
	if f.notices != nil {
		return f.notices(after, limit)
	}
	return nil
}

func (f *fakeService) Partitions(context.Context) (logic.Partitions, error) {
	return f.partitions, f.record("partitions")
}

func (f *fakeService) Grow(_ context.Context, kept int) (logic.Partitions, error) {
	return f.partitions, f.record(fmt.Sprint("grow ", kept))
}

func (f *fakeService) CountByComet(context.Context) (map[string]int, error) {
	return f.byComet, f.record("comets")
}

func (f *fakeService) ForgetComet(_ context.Context, comet string) (int, error) {
	f.mu.Lock()
	f.forgotten = append(f.forgotten, comet)
	f.mu.Unlock()
	return 1, f.record("forget " + comet)
}

func (f *fakeService) SetMember(_ context.Context, room, user string, member bool) (logic.MemberResult, error) {
	return logic.MemberResult{Sessions: 2, Late: 1}, f.record(fmt.Sprintf("member %s %s %t", room, user, member))
}

func (f *fakeService) UserRooms(_ context.Context, user string) ([]string, int, error) {
	return []string{"a", "b"}, 100, f.record("rooms of " + user)
}

func (f *fakeService) NewToken(_ context.Context, r logic.TokenRequest) (logic.Token, error) {
	f.mu.Lock()
	f.made = append(f.made, madeToken{r.User, r.TTL, r.Token, r.Single})
	f.madeRooms = r.Rooms
	f.mu.Unlock()
	if r.Token == "" {
		r.Token = "imgo_made"
	}
	made := logic.Token{Token: r.Token, User: r.User}
	if r.TTL > 0 {
		made.ExpiresMS = 1_700_000_000_000 + r.TTL.Milliseconds()
	}
	return made, f.record("new token " + r.User)
}

func (f *fakeService) CheckToken(_ context.Context, token string) (string, error) {
	if err := f.record("check token"); err != nil {
		return "", err
	}
	if user, ok := f.tokens[token]; ok {
		return user, nil
	}
	return "", envelope.Errorf(envelope.CodeUnauthorized, "the token is unknown")
}

func (f *fakeService) RevokeToken(_ context.Context, token string, check func(user string) error, closeSessions bool) (int, error) {
	if err := check(f.tokens[token]); err != nil {
		return 0, err
	}
	return 1, f.record("revoke token " + token + closing(closeSessions))
}

func (f *fakeService) RevokeUser(_ context.Context, user string, closeSessions bool) (int, error) {
	return 3, f.record("revoke user " + user + closing(closeSessions))
}

func closing(is bool) string {
	if is {
		return " and close"
	}
	return ""
}

// harness is an API over a fake service, called without a network.
type harness struct {
	t       testing.TB
	service *fakeService
	handler http.Handler
	api     *httpapi.API
	reg     *prometheus.Registry
	logged  *lockedBuffer
}

// withDefaults replaces the zero fields of cfg by the defaults.
func withDefaults(cfg httpapi.Config) httpapi.Config {
	cfg.Transports = []string{"tcp", "ws"}
	v, defaults := reflect.ValueOf(&cfg).Elem(), reflect.ValueOf(httpapi.DefaultConfig())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			v.Field(i).Set(defaults.Field(i))
		}
	}
	return cfg
}

func newHarness(t testing.TB, cfg httpapi.Config, service *fakeService) *harness {
	t.Helper()
	if service == nil {
		service = &fakeService{}
	}
	if service.partitions == (logic.Partitions{}) {
		service.partitions = logic.Partitions{Kept: 16, Generation: 1}
	}
	reg, logged := prometheus.NewRegistry(), &lockedBuffer{}
	a, err := httpapi.New(withDefaults(cfg), service, zerolog.New(logged), reg)
	if err != nil {
		t.Fatal(err)
	}
	return &harness{t: t, service: service, handler: a.Handler(), api: a, reg: reg, logged: logged}
}

// lockedBuffer is a bytes.Buffer that is safe for concurrent writers.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// answer is a response whose body was read.
type answer struct {
	status int
	header http.Header
	body   string
}

// do calls the API with headers such as "X-API-Key: secret". It validates answers of /v1 against the
// OpenAPI document.
func (h *harness) do(method, target, body string, headers ...string) answer {
	h.t.Helper()
	a := h.doUnchecked(method, target, body, headers...)
	if strings.HasPrefix(target, "/v1/") {
		checkAgainstDocument(h.t, method, target, headers, body, a)
	}
	return a
}

// doUnchecked calls the API without that validation. It is for large requests and for tests in a
// synctest bubble, where the validator cannot run.
func (h *harness) doUnchecked(method, target, body string, headers ...string) answer {
	h.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, reader)
	r.Host = "127.0.0.1:7172"
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	return answer{status: w.Code, header: w.Result().Header, body: w.Body.String()} //nolint:bodyclose // a recorder's
}

// problem returns the parts of an error answer. It fails the test if the answer is not an error.
func (a answer) problem(t testing.TB) (code, field, message string) {
	t.Helper()
	var doc struct {
		Error struct{ Code, Field, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || doc.Error.Code == "" || doc.Error.Message == "" {
		t.Fatalf("answer %d is no error: %s", a.status, a.body)
	}
	return doc.Error.Code, doc.Error.Field, doc.Error.Message
}

func (f *fakeService) Hooks(context.Context) ([]events.Hook, error) {
	return []events.Hook{{
		Name: "orders", Lag: 3, Waiting: 2, WaitingSinceMS: 1700000000000, DeadLetters: 1, DeadTotal: 4, Error: "the address answered 500",
		Letters: []events.DeadLetter{{Event: "0-1.0", User: "1", Tries: 1, Reason: "the address answered 400", TimeMS: 1700000000001}},
	}}, f.record("hooks")
}

func (f *fakeService) ReplayHook(_ context.Context, hook string, fromMS int64) error {
	return f.record(fmt.Sprint("replay ", hook, " ", fromMS))
}

func (f *fakeService) RetryHook(_ context.Context, hook string) error {
	return f.record("retry " + hook)
}

func (f *fakeService) ResumeHook(_ context.Context, hook string) error {
	return f.record("resume " + hook)
}

func (f *fakeService) Explain(_ context.Context, user string, id uint64) (*logic.Explanation, error) {
	if f.explain != nil {
		f.explain()
	}
	return &logic.Explanation{
		User: user, ID: fmt.Sprint(id), Steps: []logic.Step{{TimeMS: 1700000000000, Kind: "accepted", Text: "the push was accepted"}},
	}, f.record(fmt.Sprint("explain ", user, " ", id))
}
