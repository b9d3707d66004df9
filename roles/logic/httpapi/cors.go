package httpapi

import (
	"net/http"
	"slices"
	"strings"
)

// corsMaxAge is for how many seconds a browser need not ask again. No browser believes more than 7200.
const corsMaxAge = "600"

// corsHeaders are the request headers that pages may set, beside those that need no permission.
const corsHeaders = "Authorization, Content-Type, Idempotency-Key, X-API-Key"

// cors answers what a browser asks on behalf of a page of another origin (Fetch standard, section 3.3). A
// page of a trusted origin may call and read everything that its API key allows. Any page may ask for the
// best nodes. cors reports whether it has answered the request, which was a preflight. A preflight has no
// API key, so none is asked for.
func (a *API) cors(c *call, rt *route) bool {
	origin := c.R.Header.Get("Origin")
	if origin == "" {
		return false
	}
	header := c.W.Header()
	switch {
	case rt.anyPage:
		header.Set("Access-Control-Allow-Origin", "*")
	case slices.Contains(a.cfg.TrustedOrigins, origin):
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Expose-Headers", "Retry-After")
		header.Add("Vary", "Origin")
	default:
		return false
	}
	if c.R.Method != http.MethodOptions || c.R.Header.Get("Access-Control-Request-Method") == "" || rt.methods == nil {
		return false
	}
	header.Set("Access-Control-Allow-Methods", strings.Join(rt.allowed(), ", "))
	header.Set("Access-Control-Allow-Headers", corsHeaders)
	header.Set("Access-Control-Max-Age", corsMaxAge)
	if c.R.Header.Get("Access-Control-Request-Private-Network") == "true" {
		header.Set("Access-Control-Allow-Private-Network", "true") // the page is of the internet, this server is not
	}
	c.Status = http.StatusNoContent
	c.W.WriteHeader(c.Status)
	return true
}
