// Package imgo2016 is the HTTP API of imgo 2016, exactly as its servers
// answered: {"ret":N}, with status 200 even on error.
//
// It owns the paths, parameters and answers of that API, and nothing else:
// package httpapi lets callers in and counts them, and a Service does the work.
// Nothing here is of use to new callers.
package imgo2016

import (
	"context"
	"net/http"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Service is what this API needs of role logic.
type Service interface {
	Push(ctx context.Context, cmd *logic.PushCommand) (*logic.PushResult, error)
	Take(ctx context.Context, user string, afterMS int64, max int) (*envelope.TakeReply, error)
	Rooms(ctx context.Context) (map[string]uint32, error)
	Stats(ctx context.Context) (logic.Stats, error)
	CountByComet(ctx context.Context) (map[string]int, error)
	ForgetComet(ctx context.Context, comet string) (int, error)
	NewToken(ctx context.Context, r logic.TokenRequest) (logic.Token, error)
	CheckToken(ctx context.Context, token string) (string, error)
}

// maxTake is how many messages one /1/msg/get returns.
const maxTake = 1000

// API has the handlers.
type API struct {
	maxUsers int // that one push may name
	service  Service
}

// New returns the API of a service. maxUsers is how many users one push may name.
func New(maxUsers int, service Service) *API { return &API{maxUsers: maxUsers, service: service} }

// The paths that answer a caller's mistake with retParam.
const (
	pathTokenNew = "/1/admin/token/new"
	pathMsgGet   = "/1/msg/get"
)

// Routes are the API's paths. All of them are below /1/.
func (a *API) Routes() []httpcall.Route {
	return []httpcall.Route{
		{Path: "/1/push", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.push},
		{Path: "/1/pushs", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.pushMany},
		{Path: "/1/push/room", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.pushRoom},
		{Path: "/1/push/all", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.pushAll},
		{Path: "/1/count", Method: http.MethodGet, Scope: httpcall.ScopeRead, Handler: a.count},
		{Path: "/1/server/del", Method: http.MethodPost, Scope: httpcall.ScopeAdmin, Handler: a.serverDel},
		{Path: pathTokenNew, Method: http.MethodPost, Scope: httpcall.ScopeTokens, Handler: a.tokenNew},
		{Path: pathMsgGet, Method: http.MethodGet, Scope: httpcall.ScopeUsers, Handler: a.msgGet},
	}
}
