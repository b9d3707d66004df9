package httpapi_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestOpenAPICheckFails checks that the validator finds differences between the document and the
// handlers. All other tests rely on it.
func TestOpenAPICheckFails(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	answered := func(status int, body string, headers ...string) answer {
		a := answer{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: body}
		for _, header := range headers {
			name, value, _ := strings.Cut(header, ": ")
			a.header.Set(name, value)
		}
		return a
	}
	const (
		kick    = "POST /v1/users/alice/kick"
		push    = "POST /v1/push"
		pushed  = `{"sessions":1}`
		online  = `{"users":[]}`
		failure = `{"error":{"code":"unavailable","message":"m"}}`
	)
	for _, c := range []struct {
		name, request, headers, body string
		answer                       answer
		want                         string // expected in the error; empty if no error is expected
	}{
		{"right", kick, "", `{"device":"a"}`, answered(200, `{"sessions":2}`), ""},
		{"right without a body", kick, "", "", answered(200, `{"sessions":2}`), ""},
		{"right with a charset", kick, "", "", answered(200, `{"sessions":2}`, "Content-Type: application/json; charset=utf-8"), ""},
		{"right failure", kick, "", "", answered(503, failure, "Retry-After: 1"), ""},
		{"right list", "GET /v1/users?ids=a,b", "", "", answered(200, online), ""},
		{"right wrong method", "DELETE /v1/push", "", "", answered(405, failure, "Allow: POST"), ""},
		{"refused for what is not described", kick + "?x=1", "", `{"x":1}`, answered(400, failure), ""},

		{"wrong type", kick, "", "", answered(200, `{"sessions":"2"}`), "got string, want integer"},
		{"value out of range", kick, "", "", answered(200, `{"sessions":-1}`), "minimum"},
		{"missing property", kick, "", "", answered(200, `{}`), "missing property 'sessions'"},
		{"undescribed property", kick, "", "", answered(200, `{"sessions":1,"x":1}`), "additional properties 'x' not allowed"},
		{"undescribed property of an optional form", push, "", `{"all":true,"body":1}`, answered(202, `{"sessions":1,"x":1}`), "additional"},
		{"by reference: value of an enum", kick, "", "", answered(500, `{"error":{"code":"x","message":"m"}}`), "/error/code"},
		{"undescribed status", kick, "", "", answered(418, failure), "status 418 is not described"},
		{"undescribed success", kick, "", "", answered(202, `{"sessions":1}`), "status 202 is not described"},
		{"no JSON", kick, "", "", answered(200, `{"sessions":2`), "body"},
		{"more than one JSON value", kick, "", "", answered(200, `{"sessions":2} {}`), "body"},
		{"no body", kick, "", "", answered(200, ""), "body"},
		{"content type", kick, "", "", answered(200, `{"sessions":2}`, "Content-Type: text/plain"), "type text/plain is not described"},
		{"no content type", kick, "", "", answer{status: 200, header: http.Header{}, body: `{"sessions":2}`}, "content type"},
		{"missing header", kick, "", "", answered(503, failure), "header Retry-After is missing"},
		{"type of a header", kick, "", "", answered(503, failure, "Retry-After: soon"), "got string, want integer"},
		{"value of a header", kick, "", "", answered(503, failure, "Retry-After: 0"), "minimum"},
		{"missing header of a wrong method", "DELETE /v1/push", "", "", answered(405, failure), "header Allow is missing"},

		{"undescribed path", "GET /v1/nothing", "", "", answered(200, "{}"), "is not described"},
		{"undescribed method", "DELETE /v1/push", "", "", answered(200, "{}"), "is not described"},
		{"a written out path goes first", "GET /v1/users/online", "", "", answered(200, "{}"), "is not described"},
		{"undescribed query parameter", kick + "?x=1", "", "", answered(200, `{"sessions":2}`), "query parameter x is not described"},
		{"missing query parameter", "GET /v1/users", "", "", answered(200, online), "query parameter ids is missing"},
		{"type of a query parameter", "GET /v1/rooms?limit=x", "", "", answered(200, `{"rooms":[],"total":0}`), "got string, want integer"},
		{"value of a query parameter", "GET /v1/rooms?limit=0", "", "", answered(200, `{"rooms":[],"total":0}`), "minimum"},
		{"query parameter twice", "GET /v1/rooms?limit=1&limit=2", "", "", answered(200, `{"rooms":[],"total":0}`), "there 2 times"},
		{"value in a list", "GET /v1/users?ids=a,,b", "", "", answered(200, online), "at '/1'"},
		{"value in a path", "POST /v1/users/a%00b/kick", "", "", answered(200, `{"sessions":2}`), "path parameter user"},
		{"value of a header parameter", push, "Idempotency-Key: " + strings.Repeat("x", 129), `{"all":true,"body":1}`, answered(202,
			pushed), "header parameter Idempotency-Key"},
		{"missing request", push, "", "", answered(202, pushed), "content type"},
		{"undescribed request", "GET /v1/rooms", "", "{}", answered(200, `{"rooms":[],"total":0}`),
			"a body of type application/json is not described"},
		{"request of a wrong type", push, "", `{"user":1,"body":1}`, answered(202, pushed), "got number, want string"},
		{"request that lacks a property", push, "", `{"user":"a"}`, answered(202, pushed), "missing property 'body'"},
		{"undescribed property of a request", push, "", `{"user":"a","body":1,"x":1}`, answered(202, pushed),
			"additional properties 'x' not allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			method, target, _ := strings.Cut(c.request, " ")
			var headers []string
			if c.headers != "" {
				headers = []string{c.headers}
			}
			err := doc.check(newRequest(method, target, headers, c.body), c.body, c.answer)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestOpenAPISecurityCheck checks that a request without a key is reported if the document requires a
// key.
func TestOpenAPISecurityCheck(t *testing.T) {
	raw, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	closed := strings.Replace(string(raw), "  \"apiKey\": []\n  },\n  {}\n", "  \"apiKey\": []\n  }\n", 1)
	doc, err := readOpenAPI([]byte(closed))
	if err != nil || closed == string(raw) {
		t.Fatal("the document without {} in security:", err)
	}
	for header, good := range map[string]bool{
		"X-API-Key: a": true, "Authorization: Bearer a": true, "Authorization: Basic a": false, "X-Other: a": false,
	} {
		a := answer{status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: `{"rooms":[],"total":0}`}
		if err := doc.check(newRequest("GET", "/v1/rooms", []string{header}, ""), "", a); (err == nil) != good {
			t.Errorf("with %s: %v", header, err)
		}
	}
}

// TestOpenAPIUnsound checks that an invalid document is refused.
func TestOpenAPIUnsound(t *testing.T) {
	const sound = `{"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {
		"/a/{b}": {"get": {"operationId": "a", "parameters": [{"$ref": "#/components/parameters/b"}],
			"responses": {"200": {"description": "d", "content": {"text/plain": {"schema": {"$ref": "#/components/schemas/C"}}}}}}},
		"/d": {"get": {"operationId": "d", "responses": {"200": {"description": "d"}}}}},
		"components": {"parameters": {"b": {"name": "b", "in": "path", "required": true, "schema": {"type": "string"}}},
			"schemas": {"C": {"type": "string", "minLength": 1}}}}`
	if _, err := readOpenAPI([]byte(sound)); err != nil {
		t.Fatal("a sound document is refused:", err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"no JSON", `{"openapi"`, `"openapi"`, "invalid character"},
		{"another version", `3.1.0`, `3.0.0`, "/openapi"},
		{"no title", `"title": "t", `, ``, "title"},
		{"undefined field", `"operationId": "d"`, `"operationId": "d", "operation": 1`, "/paths/~1d/get"},
		{"response without a description", `"200": {"description": "d"}`, `"200": {}`, "description"},
		{"reference to no parameter", `#/components/parameters/b`, `#/components/parameters/x`, "nothing is at #/components/parameters/x"},
		{"reference to no schema", `#/components/schemas/C`, `#/components/schemas/X`, "#/components/schemas/X"},
		{"reference elsewhere", `#/components/schemas/C`, `other.json`, "other.json"},
		{"unknown type", `"C": {"type": "string"`, `"C": {"type": "text"`, "#/components/schemas/C"},
		{"wrong keyword", `"minLength": 1`, `"minLength": "1"`, "minLength"},
		{"wrong pattern", `"minLength": 1`, `"pattern": "("`, "pattern"},
		{"operationId twice", `"operationId": "d"`, `"operationId": "a"`, `"a" is missing or used twice`},
		{"no operationId", `"operationId": "d", `, ``, `"" is missing or used twice`},
		{"undeclared path parameter", `"/a/{b}"`, `"/a/{b}/{c}"`, "declares the path parameters"},
		{"path parameter that is not in the path", `"/a/{b}"`, `"/a"`, "declares the path parameters"},
		{"path parameter that may be left out", `"required": true`, `"required": false`, "required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			unsound := strings.Replace(sound, c.old, c.new, 1)
			if _, err := readOpenAPI([]byte(unsound)); unsound == sound || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
