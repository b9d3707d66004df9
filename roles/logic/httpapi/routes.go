package httpapi

import (
	"net/http"
	"slices"

	"imgo/roles/logic/httpapi/goim"
	"imgo/roles/logic/httpapi/imgo2016"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// handler answers one request, or returns the error that its form shows.
type handler func(*call) error

// call is one request under way, with what only /v1 needs of it.
type call struct {
	*httpcall.Call
	api *API
	// key is the caller's API key, nil where no keys are set.
	key *caller
}

// route is one path.
type route struct {
	path    string
	form    *httpcall.Form
	methods methods // nil: the API has no such path
	// anyPage lets pages of every origin read the answers. The path needs no API key.
	anyPage bool
	// own says that the guard or the handler checks what a caller with patterns may do.
	// Otherwise checkNames does.
	own bool
}

// checkNames lets a caller with patterns of users and rooms name only those, in the path
// and in the query. A call that names none is about everybody and is refused.
func (rt *route) checkNames(c *call) error {
	if !c.key.limited() || rt.own {
		return nil
	}
	named := func(field string) []string {
		names := c.Params()[field]
		if name := c.R.PathValue(field); name != "" {
			names = append([]string{name}, names...)
		}
		return names
	}
	users, rooms := named("user"), named("room")
	for _, user := range users {
		if err := c.key.checkUser(user); err != nil {
			return err
		}
	}
	for _, room := range rooms {
		if err := c.key.checkRoom(room); err != nil {
			return err
		}
	}
	if len(users)+len(rooms) == 0 {
		return c.key.checkAll("ask without the name of a user or a room")
	}
	return nil
}

// methods are the methods of a path.
type methods map[string]method

// method is what a path does for one method, and the scope that it needs.
type method struct {
	scope  Scope
	handle handler
}

// open reports whether the path needs no API key.
func (rt *route) open() bool {
	for _, m := range rt.methods {
		if m.scope != httpcall.ScopeOpen {
			return false
		}
	}
	return true
}

// allowed are the route's methods, sorted.
func (rt *route) allowed() []string {
	methods := make([]string, 0, len(rt.methods))
	for m := range rt.methods {
		methods = append(methods, m)
	}
	slices.Sort(methods)
	return methods
}

func (a *API) register() {
	get := func(scope Scope, h handler) methods { return methods{http.MethodGet: {scope, h}} }
	post := func(scope Scope, h handler) methods { return methods{http.MethodPost: {scope, h}} }
	remove := func(h handler) methods { return methods{http.MethodDelete: {httpcall.ScopeUsers, h}} }
	v1 := v1Form()

	a.routes = []*route{
		{path: "/v1/push", form: v1, own: true, methods: post(httpcall.ScopePush, a.push)},
		{path: "/v1/push/batch", form: v1, own: true, methods: post(httpcall.ScopePush, a.pushBatch)},
		{path: "/v1/push/stream", form: v1, own: true, methods: post(httpcall.ScopePush, a.pushStream)},
		{path: "/v1/users", form: v1, own: true, methods: get(httpcall.ScopeRead, a.usersOnline)},
		{path: "/v1/users/online", form: v1, own: true, methods: post(httpcall.ScopeRead, a.usersOnlineList)},
		{path: "/v1/users/{user}", form: v1, methods: methods{
			http.MethodGet:    {httpcall.ScopeRead, a.user},
			http.MethodDelete: {httpcall.ScopeUsers, a.eraseUser},
		}},
		{path: "/v1/users/{user}/devices/{device}", form: v1, methods: remove(a.forgetDevice)},
		{path: "/v1/users/{user}/tokens", form: v1, methods: get(httpcall.ScopeTokens, a.userTokens)},
		{path: "/v1/users/{user}/messages", form: v1, methods: methods{
			http.MethodGet:    {httpcall.ScopeRead, a.messages},
			http.MethodDelete: {httpcall.ScopeUsers, a.purge},
		}},
		{path: "/v1/users/{user}/messages/{id}", form: v1, methods: get(httpcall.ScopeRead, a.message)},
		{path: "/v1/users/{user}/messages/{id}/explain", form: v1, methods: get(httpcall.ScopeRead, a.explain)},
		{path: "/v1/user", form: v1, methods: methods{
			http.MethodGet:    {httpcall.ScopeRead, a.user},
			http.MethodDelete: {httpcall.ScopeUsers, a.eraseUser},
		}},
		{path: "/v1/user/devices", form: v1, methods: remove(a.forgetDeviceByQuery)},
		{path: "/v1/user/tokens", form: v1, methods: get(httpcall.ScopeTokens, a.userTokens)},
		{path: "/v1/user/messages", form: v1, methods: methods{
			http.MethodGet:    {httpcall.ScopeRead, a.messages},
			http.MethodDelete: {httpcall.ScopeUsers, a.purge},
		}},
		{path: "/v1/user/messages/{id}", form: v1, methods: get(httpcall.ScopeRead, a.message)},
		{path: "/v1/user/messages/{id}/explain", form: v1, methods: get(httpcall.ScopeRead, a.explain)},
		{path: "/v1/user/read", form: v1, methods: post(httpcall.ScopeUsers, a.read)},
		{path: "/v1/user/kick", form: v1, methods: post(httpcall.ScopeUsers, a.kick)},
		{path: "/v1/users/{user}/rooms", form: v1, methods: get(httpcall.ScopeRead, a.userRooms)},
		{path: "/v1/users/{user}/read", form: v1, methods: post(httpcall.ScopeUsers, a.read)},
		{path: "/v1/users/{user}/kick", form: v1, methods: post(httpcall.ScopeUsers, a.kick)},
		{path: "/v1/rooms", form: v1, own: true, methods: get(httpcall.ScopeRead, a.rooms)},
		{path: "/v1/rooms/{room}", form: v1, methods: get(httpcall.ScopeRead, a.room)},
		{path: "/v1/room", form: v1, methods: get(httpcall.ScopeRead, a.roomByQuery)},
		{path: "/v1/rooms/{room}/users/{user}", form: v1, methods: methods{
			http.MethodPut:    {httpcall.ScopeRooms, a.addMember},
			http.MethodDelete: {httpcall.ScopeRooms, a.removeMember},
		}},
		{path: "/v1/memberships", form: v1, methods: methods{
			http.MethodGet:    {httpcall.ScopeRead, a.userRoomsByQuery},
			http.MethodPut:    {httpcall.ScopeRooms, a.addMemberByQuery},
			http.MethodDelete: {httpcall.ScopeRooms, a.removeMemberByQuery},
		}},
		{path: "/v1/stats", form: v1, own: true, methods: get(httpcall.ScopeRead, a.stats)},
		{path: "/v1/nodes", form: v1, own: true, methods: get(httpcall.ScopeRead, a.nodes)},
		{path: "/v1/nodes/best", form: v1, methods: get(httpcall.ScopeOpen, a.bestNodes), anyPage: true},
		{path: "/v1/hooks", form: v1, methods: get(httpcall.ScopeRead, a.hooks)},
		{path: "/v1/hooks/{hook}/replay", form: v1, methods: post(httpcall.ScopeAdmin, a.replayHook)},
		{path: "/v1/hooks/{hook}/retry", form: v1, methods: post(httpcall.ScopeAdmin, a.retryHook)},
		{path: "/v1/hooks/{hook}/resume", form: v1, methods: post(httpcall.ScopeAdmin, a.resumeHook)},
		{path: "/v1/partitions", form: v1, own: true, methods: methods{
			http.MethodGet:  {httpcall.ScopeRead, a.partitions},
			http.MethodPost: {httpcall.ScopeAdmin, a.grow},
		}},
		{path: "/v1/notices", form: v1, methods: get(httpcall.ScopeRead, a.notices)},
		{path: "/v1/events", form: v1, methods: get(httpcall.ScopeRead, a.events)},
		{path: "/v1/tokens", form: v1, own: true, methods: post(httpcall.ScopeTokens, a.newToken)},
		{path: "/v1/tokens/revoke", form: v1, own: true, methods: post(httpcall.ScopeTokens, a.revokeTokens)},
		{path: "/v1/openapi.json", form: v1, methods: get(httpcall.ScopeOpen, openapiJSON)},
		{path: "/v1/openapi.yaml", form: v1, methods: get(httpcall.ScopeOpen, openapiYAML)},
		{path: "/", form: v1},
	}
	imgo := imgo2016.New(imgo2016.Config{MaxUsers: a.cfg.MaxUsers, MaxTake: a.cfg.MaxTake}, a.service)
	a.routes = append(a.routes, ancestorRoutes("/1/", imgo2016.Form(), imgo.Routes())...)
	a.routes = append(a.routes, ancestorRoutes("/goim/", goim.Form(), goim.New(a.cfg.Goim, a.service).Routes())...)
	for _, rt := range a.routes {
		a.mux.HandleFunc(rt.path, func(w http.ResponseWriter, r *http.Request) { a.serve(rt, w, r) })
	}
}

// ancestorRoutes returns the routes of an older API, and one for all other paths
// below its root.
func ancestorRoutes(root string, form *httpcall.Form, routes []httpcall.Route) []*route {
	list := []*route{{path: root, form: form}}
	for _, r := range routes {
		h := func(c *call) error { return r.Handler(c.Call) }
		list = append(list, &route{path: r.Path, form: form, own: true, methods: methods{r.Method: {r.Scope, h}}})
	}
	return list
}
