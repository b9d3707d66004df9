// Package apitest calls the HTTP API in the tests of the older APIs, over a service that records what it is
// asked to do.
package apitest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
	"imgo/roles/logic/httpapi/goim"
)

// Service stands for role logic. It has what the older APIs call; any other call panics. Set its exported
// fields before the first call.
type Service struct {
	httpapi.Service

	// Err, if set, is returned by every method that can fail.
	Err        error
	RoomCounts map[string]uint32
	Totals     logic.Stats
	NodeList   []logic.NodeInfo
	GoodTokens map[string]string // token to user
	ByComet    map[string]int
	OnTake     func(user string, afterMS int64, most int) (*envelope.TakeReply, error)

	mu        sync.Mutex
	pushes    []*logic.PushCommand
	calls     []string
	forgotten []string
	made      []MadeToken
}

// MadeToken is what NewToken was asked for.
type MadeToken struct {
	User   string
	TTL    time.Duration
	Token  string
	Single bool
}

func (s *Service) record(call string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	return s.Err
}

// Calls returns the calls so far, or nil without a call.
func (s *Service) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// LastPush returns the newest push, or nil if there is none.
func (s *Service) LastPush() *logic.PushCommand {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pushes) == 0 {
		return nil
	}
	return s.pushes[len(s.pushes)-1]
}

// Forgotten returns the comets that were forgotten.
func (s *Service) Forgotten() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.forgotten...)
}

// TakeMade returns the tokens that were made since the last call.
func (s *Service) TakeMade() []MadeToken {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := s.made
	s.made = nil
	return made
}

// Push checks names as the logic role does, and notes the push.
func (s *Service) Push(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
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
	if err := s.record("push"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.pushes = append(s.pushes, cmd)
	s.mu.Unlock()
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

// Take answers with OnTake.
func (s *Service) Take(_ context.Context, user string, after int64, most int) (*envelope.TakeReply, error) {
	if err := s.record("take " + user); err != nil {
		return nil, err
	}
	if s.OnTake != nil {
		return s.OnTake(user, after, most)
	}
	return &envelope.TakeReply{}, nil
}

// Rooms returns RoomCounts.
func (s *Service) Rooms(context.Context) (map[string]uint32, error) {
	return s.RoomCounts, s.record("rooms")
}

// Stats returns Totals.
func (s *Service) Stats(context.Context) (logic.Stats, error) { return s.Totals, s.record("stats") }

// Nodes returns NodeList.
func (s *Service) Nodes(context.Context) []logic.NodeInfo { return s.NodeList }

// CountByComet returns ByComet.
func (s *Service) CountByComet(context.Context) (map[string]int, error) {
	return s.ByComet, s.record("comets")
}

// ForgetComet notes the comet.
func (s *Service) ForgetComet(_ context.Context, comet string) (int, error) {
	s.mu.Lock()
	s.forgotten = append(s.forgotten, comet)
	s.mu.Unlock()
	return 1, s.record("forget " + comet)
}

// NewToken notes the token.
func (s *Service) NewToken(_ context.Context, r logic.TokenRequest) (logic.Token, error) {
	s.mu.Lock()
	s.made = append(s.made, MadeToken{r.User, r.TTL, r.Token, r.Single})
	s.mu.Unlock()
	return logic.Token{Token: r.Token, User: r.User}, s.record("new token " + r.User)
}

// CheckToken knows GoodTokens.
func (s *Service) CheckToken(_ context.Context, token string) (string, error) {
	if err := s.record("check token"); err != nil {
		return "", err
	}
	if user, ok := s.GoodTokens[token]; ok {
		return user, nil
	}
	return "", envelope.Errorf(envelope.CodeUnauthorized, "the token is unknown")
}

// Harness is the API over a Service, called without a network.
type Harness struct {
	Service *Service
	t       testing.TB
	handler http.Handler
}

// New returns the API over a service, with what /goim/nodes tells; nil: the defaults.
func New(t testing.TB, service *Service, nodes *goim.Config) *Harness {
	t.Helper()
	cfg := httpapi.DefaultConfig()
	if nodes != nil {
		cfg.Goim = *nodes
	}
	api, err := httpapi.New(cfg, service, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return &Harness{Service: service, t: t, handler: api.Handler()}
}

// Answer is an answer whose body was read.
type Answer struct {
	Status      int
	ContentType string
	Body        string
}

// Do makes a call, with headers such as "Content-Type: text/plain", as a program of the server's machine.
func (h *Harness) Do(method, target, body string, headers ...string) Answer {
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
	return Answer{Status: w.Code, ContentType: w.Header().Get("Content-Type"), Body: w.Body.String()}
}
