// Package goim is the HTTP API of goim v2, exactly as its servers answered:
// {"code","message","data"}, with status 200 even on error.
//
// It owns goim's paths, parameters and answers, and nothing else: package
// httpapi lets callers in and counts them, and a Service does the work. Nothing
// here is of use to new callers.
package goim

import (
	"context"
	"net/http"

	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Service is what this API needs of role logic.
type Service interface {
	Push(ctx context.Context, cmd *logic.PushCommand) (*logic.PushResult, error)
	Rooms(ctx context.Context) (map[string]uint32, error)
	Stats(ctx context.Context) (logic.Stats, error)
	Nodes(ctx context.Context) []logic.NodeInfo
}

// API has the handlers.
type API struct{ service Service }

// New returns the API of a service.
func New(service Service) *API { return &API{service} }

// Routes are the API's paths. All of them are below /goim/.
func (a *API) Routes() []httpcall.Route {
	return []httpcall.Route{
		{Path: "/goim/push/keys", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.pushKeys},
		{Path: "/goim/push/mids", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.pushMids},
		{Path: "/goim/push/room", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.pushRoom},
		{Path: "/goim/push/all", Method: http.MethodPost, Scope: httpcall.ScopePush, Handler: a.pushAll},
		{Path: "/goim/online/top", Method: http.MethodGet, Scope: httpcall.ScopeRead, Handler: a.onlineTop},
		{Path: "/goim/online/room", Method: http.MethodGet, Scope: httpcall.ScopeRead, Handler: a.onlineRoom},
		{Path: "/goim/online/total", Method: http.MethodGet, Scope: httpcall.ScopeRead, Handler: a.onlineTotal},
		{Path: "/goim/nodes/weighted", Method: http.MethodGet, Scope: httpcall.ScopeRead, Handler: a.nodesWeighted},
		{Path: "/goim/nodes/instances", Method: http.MethodGet, Scope: httpcall.ScopeRead, Handler: a.nodesInstances},
	}
}
