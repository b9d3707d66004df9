package httpapi

import (
	"strings"

	"imgo/internal/settings"
)

// DefaultConfig returns a Config with every default and no keys.
func DefaultConfig() Config { return settings.Default[Config]() }

// Routes are the paths of /v1, each with its methods, as ServeMux patterns
// ("/v1/users/{user}"). The OpenAPI document is tested against it.
func (a *API) Routes() map[string][]string {
	routes := map[string][]string{}
	for _, rt := range a.routes {
		if strings.HasPrefix(rt.path, "/v1/") && rt.methods != nil {
			routes[rt.path] = rt.allowed()
		}
	}
	return routes
}

// Scopes returns the scope of each route of all APIs, by method and path such as "POST /v1/push".
func (a *API) Scopes() map[string]Scope {
	scopes := map[string]Scope{}
	for _, rt := range a.routes {
		for name, m := range rt.methods {
			scopes[name+" "+rt.path] = m.scope
		}
	}
	return scopes
}
