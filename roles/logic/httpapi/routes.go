package httpapi

import (
	"maps"
	"net/http"
	"slices"

	"imgo/internal/jsonread"
	"imgo/roles/logic/httpapi/goim"
	"imgo/roles/logic/httpapi/imgo2016"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// handler answers one request, or returns the error that its form shows.
type handler func(*call) error

// call is one request under way, with what only /v1 needs of it.
type call struct {
	*httpcall.Call
	metrics *metrics
	// key is the caller's API key, nil where no keys are set.
	key *caller
}

// name returns the user, room or device that a call is about. The path has it, or the query, which takes every name: a
// path cannot carry ".", for example. more are further parameters of the call.
func (c *call) name(field string, more ...string) (string, error) {
	inPath := func(name string) bool { return c.R.PathValue(name) != "" }
	if err := c.Known(slices.DeleteFunc(append(more, field), inPath)...); err != nil {
		return "", err
	}
	if inPath(field) {
		return c.PathName(field)
	}
	return c.QueryName(field)
}

// onlyParams returns h for calls that have no other parameters than these.
func onlyParams(h handler, params ...string) handler {
	return func(c *call) error {
		if err := c.Known(params...); err != nil {
			return err
		}
		return h(c)
	}
}

// named returns the handler of calls about one user, room or hook: field. h takes its name. more are further
// parameters of the call.
func named(field string, h func(c *call, name string) error, more ...string) handler {
	return func(c *call) error {
		name, err := c.name(field, more...)
		if err != nil {
			return err
		}
		return h(c, name)
	}
}

// decode reads the body, a JSON object.
func (c *call) decode(into jsonread.Fields) error {
	data, err := c.ReadBody()
	if err != nil {
		return err
	}
	return jsonread.Object(data, into)
}

// decodeField reads the body, a JSON object that has one field at most.
func decodeField[T any](c *call, field string, read func(*jsonread.Reader) (T, error)) (value T, err error) {
	err = c.decode(fieldFunc(func(r *jsonread.Reader, name string) (err error) {
		if name != field {
			return jsonread.ErrUnknownField
		}
		value, err = read(r)
		return err
	}))
	return value, err
}

// fieldFunc is a function as a jsonread.Fields.
type fieldFunc func(r *jsonread.Reader, name string) error

func (f fieldFunc) Field(r *jsonread.Reader, name string) error { return f(r, name) }

// answer answers with what the service has returned: v as JSON, or err.
func (c *call) answer(status int, v any, err error) error {
	if err != nil {
		return err
	}
	return c.Reply(status, v)
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
func (rt *route) allowed() []string { return slices.Sorted(maps.Keys(rt.methods)) }

// endpoint is one method of a path.
type endpoint struct {
	verb string
	method
}

func get(scope Scope, h handler) endpoint    { return endpoint{http.MethodGet, method{scope, h}} }
func put(scope Scope, h handler) endpoint    { return endpoint{http.MethodPut, method{scope, h}} }
func post(scope Scope, h handler) endpoint   { return endpoint{http.MethodPost, method{scope, h}} }
func remove(scope Scope, h handler) endpoint { return endpoint{http.MethodDelete, method{scope, h}} }

// v1 returns a route of /v1.
func v1(path string, endpoints ...endpoint) *route {
	rt := &route{path: path, form: v1Form(), methods: make(methods)}
	for _, e := range endpoints {
		rt.methods[e.verb] = e.method
	}
	return rt
}

// v1Own is v1 with own set.
func v1Own(path string, endpoints ...endpoint) *route {
	rt := v1(path, endpoints...)
	rt.own = true
	return rt
}

func (a *API) register() {
	const readScope, userScope, roomScope = httpcall.ScopeRead, httpcall.ScopeUsers, httpcall.ScopeRooms
	push := pushHandlers{cfg: a.cfg, service: a.service, shared: &a.shared, metrics: a.metrics, ends: a.streams}
	users, rooms := userHandlers{a.service, a.cfg.MaxUsers}, roomHandlers{a.service}
	messages := messageHandlers{a.service, make(chan struct{}, maxExplaining)}
	tokens, hooks, server := tokenHandlers{a.service}, hookHandlers{a.service, a.log}, serverHandlers{a.service, a.log, a.cfg.Transports}
	events := eventHandlers{service: a.service, ends: a.streams, waiting: make(chan struct{}, maxWaiting)}

	a.routes = []*route{
		v1Own("/v1/push", post(httpcall.ScopePush, onlyParams(push.one))),
		v1Own("/v1/push/batch", post(httpcall.ScopePush, onlyParams(push.batch))),
		v1Own("/v1/push/stream", post(httpcall.ScopePush, onlyParams(push.stream))),
		v1Own("/v1/users", get(readScope, onlyParams(users.online, "ids"))),
		v1Own("/v1/users/online", post(readScope, onlyParams(users.onlineList))),
		v1("/v1/users/{user}/devices/{device}", remove(userScope, named("user", users.forgetDevice, "device"))),
		v1("/v1/user/devices", remove(userScope, named("user", users.forgetDevice, "device"))),
		v1Own("/v1/rooms", get(readScope, onlyParams(rooms.list, "prefix", "limit"))),
		v1("/v1/rooms/{room}", get(readScope, named("room", rooms.get, "limit"))),
		v1("/v1/room", get(readScope, named("room", rooms.get, "limit"))),
		v1("/v1/rooms/{room}/users/{user}", put(roomScope, rooms.addMember), remove(roomScope, rooms.removeMember)),
		v1("/v1/users/{user}/rooms", get(readScope, named("user", rooms.ofUser))),
		v1("/v1/memberships",
			get(readScope, named("user", rooms.ofUser)), put(roomScope, rooms.addMember), remove(roomScope, rooms.removeMember)),
		v1Own("/v1/stats", get(readScope, onlyParams(server.stats))),
		v1Own("/v1/nodes", get(readScope, onlyParams(server.nodes))),
		{path: "/v1/nodes/best", form: v1Form(), anyPage: true, methods: methods{
			http.MethodGet: {httpcall.ScopeOpen, onlyParams(server.bestNodes, "transport", "zone", "n")},
		}},
		v1("/v1/hooks", get(readScope, onlyParams(hooks.list))),
		v1("/v1/hooks/{hook}/replay", post(httpcall.ScopeAdmin, named("hook", hooks.replay))),
		v1("/v1/hooks/{hook}/retry", post(httpcall.ScopeAdmin, named("hook", hooks.retry))),
		v1("/v1/hooks/{hook}/resume", post(httpcall.ScopeAdmin, named("hook", hooks.resume))),
		v1Own("/v1/partitions", get(readScope, onlyParams(server.partitions)), post(httpcall.ScopeAdmin, onlyParams(server.grow))),
		v1("/v1/notices", get(readScope, onlyParams(server.notices, "after", "limit"))),
		v1("/v1/events", get(readScope, events.list)),
		v1Own("/v1/tokens", post(httpcall.ScopeTokens, onlyParams(tokens.make))),
		v1Own("/v1/tokens/revoke", post(httpcall.ScopeTokens, onlyParams(tokens.revoke))),
		v1("/v1/openapi.json", get(httpcall.ScopeOpen, document(httpcall.ContentJSON, documentJSON))),
		v1("/v1/openapi.yaml", get(httpcall.ScopeOpen, document("application/yaml", documentYAML))),
		{path: "/", form: v1Form()},
	}
	// The calls about one user have two paths: with the name in the path, and in the query.
	for _, path := range []string{"/v1/users/{user}", "/v1/user"} {
		a.routes = append(a.routes,
			v1(path, get(readScope, named("user", users.get)), remove(userScope, named("user", users.erase))),
			v1(path+"/tokens", get(httpcall.ScopeTokens, named("user", tokens.ofUser))),
			v1(path+"/messages",
				get(readScope, named("user", messages.list, "cursor", "limit", "bodies")), remove(userScope, named("user", messages.purge))),
			v1(path+"/messages/{id}", get(readScope, named("user", messages.get))),
			v1(path+"/messages/{id}/explain", get(readScope, named("user", messages.explain))),
			v1(path+"/read", post(userScope, named("user", users.read))),
			v1(path+"/kick", post(userScope, named("user", users.kick))),
		)
	}
	imgo := imgo2016.New(a.cfg.MaxUsers, a.service)
	a.routes = append(a.routes, ancestorRoutes("/1/", imgo2016.Form(), imgo.Routes())...)
	a.routes = append(a.routes, ancestorRoutes("/goim/", goim.Form(), goim.New(a.service).Routes())...)
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
