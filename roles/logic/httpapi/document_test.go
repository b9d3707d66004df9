package httpapi_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

var update = flag.Bool("update", false, "write openapi.json anew from openapi.yaml")

// document returns the OpenAPI document. It is read once for all tests.
var document = sync.OnceValues(func() (*openapi, error) {
	raw, err := os.ReadFile("openapi.json")
	if err != nil {
		return nil, err
	}
	return readOpenAPI(raw)
})

// checkAgainstDocument validates an answer of a real handler against the document. If the request was
// accepted, it is validated too. Every test that calls /v1 uses it.
func checkAgainstDocument(t testing.TB, method, target string, headers []string, body string, a answer) {
	t.Helper()
	doc, err := document()
	if err != nil {
		t.Fatal("read the OpenAPI document:", err)
	}
	if method == http.MethodHead || a.status >= 300 && a.status < 400 {
		return // The request belongs to no operation of the document.
	}
	err = doc.check(newRequest(method, target, headers, body), body, a)
	if a.status == http.StatusNotFound && errors.Is(err, errUndescribed) {
		return // The document need not describe an unknown path.
	}
	if err != nil {
		t.Errorf("%s %s %s\nanswered %d, which is not as the document says: %v\n%s", method, target, body, a.status, err, a.body)
	}
}

// newRequest returns a request that can be validated against the document.
func newRequest(method, target string, headers []string, body string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	if body != "" {
		// The server ignores the content type.
		contentType := "application/json"
		if strings.HasSuffix(target, "/stream") {
			contentType = "application/x-ndjson"
		}
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

// TestOpenAPIJSON compares openapi.json with openapi.yaml, and both with the served documents. With
// -update it writes openapi.json from openapi.yaml.
func TestOpenAPIJSON(t *testing.T) {
	written, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var fromYAML any
	if err := yaml.Unmarshal(written, &fromYAML); err != nil {
		t.Fatal("read openapi.yaml:", err)
	}
	if *update {
		var b bytes.Buffer
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", " ")
		if err := encoder.Encode(fromYAML); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("openapi.json", b.Bytes(), 0o644); err != nil { // a source file
			t.Fatal(err)
		}
		t.Skip("openapi.json is written; run the tests again, since the binary has the old one embedded")
	}

	h := newHarness(t, httpapi.Config{Keys: []httpapi.Key{{Name: "a", Key: "secret"}}}, nil)
	served := h.do("GET", "/v1/openapi.json", "")
	if served.status != 200 || served.header.Get("Content-Type") != "application/json" {
		t.Fatalf("GET /v1/openapi.json without a key answered %d, %s", served.status, served.header.Get("Content-Type"))
	}
	var got, want any
	if err := json.Unmarshal([]byte(served.body), &got); err != nil {
		t.Fatal(err)
	}
	normal, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(normal, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("openapi.json is not openapi.yaml: go test ./roles/logic/httpapi -run TestOpenAPIJSON -update")
	}
	if y := h.do("GET", "/v1/openapi.yaml", ""); y.status != 200 || y.body != string(written) {
		t.Errorf("GET /v1/openapi.yaml answered %d with another document", y.status)
	}
}

func TestOpenAPIDocumentIsValid(t *testing.T) {
	if _, err := document(); err != nil {
		t.Error("the document is unsound:", err)
	}
}

// TestOpenAPIRoutes checks that each route is in the document, and that each path of the document is a
// route.
func TestOpenAPIRoutes(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	described := map[string][]string{}
	for _, op := range doc.operations {
		described[op.path] = append(described[op.path], op.method)
		sort.Strings(described[op.path])
	}
	if routes := newHarness(t, httpapi.Config{}, nil).api.Routes(); !reflect.DeepEqual(routes, described) {
		t.Errorf("the API has %v\nthe document describes %v", routes, described)
	}
}

// goodNames are the values of parameters in good requests.
var goodNames = map[string]string{
	"user": "a/b", "device": "phone", "room": "live://1000", "id": "7", "hook": "orders", "ids": "alice,bob",
}

// goodRequest returns a request of an operation that is accepted. It has the parameters that the operation needs, and the
// first example of a body.
func goodRequest(t *testing.T, op *operation) (method, target, body string) {
	t.Helper()
	if r, ok := goodRequests[op.OperationID]; ok {
		return op.method, r.target, r.body
	}
	target = op.path
	query := make(url.Values)
	for _, p := range op.Parameters {
		value := cmp.Or(p.Example, goodNames[p.Name])
		switch {
		case p.Required && value == "":
			t.Fatalf("the parameter %s has no example in openapi.yaml", p.Name)
		case p.In == "path":
			target = strings.ReplaceAll(target, "{"+p.Name+"}", url.PathEscape(value))
		case p.Required:
			query.Set(p.Name, value)
		}
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	for _, mediaType := range op.RequestBody.Content {
		names := slices.Sorted(maps.Keys(mediaType.Examples))
		if len(names) == 0 {
			t.Fatal("the body has no example in openapi.yaml")
		}
		body = string(mediaType.Examples[names[0]].Value)
	}
	return op.method, target, body
}

// goodRequests has requests that try more than what their operations need, and that of an operation without an example.
var goodRequests = map[string]struct{ target, body string }{
	"pushBatch":           {"/v1/push/batch", `{"pushes":[{"user":"alice","body":1},{"nonsense":1}]}`},
	"pushStream":          {"/v1/push/stream", `{"user":"alice","body":1}` + "\n" + `{"nonsense":1}`},
	"userByName":          {"/v1/user?user=online", ""},
	"userRoomsByName":     {"/v1/memberships?user=.", ""},
	"addMemberByName":     {"/v1/memberships?room=live://1000&user=/", ""},
	"notices":             {"/v1/notices?after=1", ""},
	"revokeTokens":        {"/v1/tokens/revoke", `{"user":"alice"}`},
	"events":              {"/v1/events?user=a", ""},
	"messages":            {"/v1/users/alice/messages?bodies=true", ""},
	"messagesByName":      {"/v1/user/messages?user=/&bodies=true", ""},
	"purgeMessagesByName": {"/v1/user/messages?user=..", ""},
	"forgetDeviceByName":  {"/v1/user/devices?user=/&device=", ""},
	"readByName":          {"/v1/user/read?user=/", `{"ids":["281474976710657"],"device":"phone"}`},
}

// TestOpenAPIAnswers provokes every status that the document lists for every operation. It checks that
// the handlers return no other status.
func TestOpenAPIAnswers(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range doc.operations {
		method, target, body := goodRequest(t, op)
		for status := range op.Responses {
			if (op.OperationID == "pushBatch" || op.OperationID == "pushStream") && (status == "500" || status == "503") {
				continue // These statuses need a bug or too many large bodies. A failing service is only a failed result.
			}
			t.Run(op.OperationID+"/"+status, func(t *testing.T) {
				answer := provoke(t, status, method, target, body)
				if strconv.Itoa(answer.status) != status {
					t.Errorf("%s %s answered %d, not %s: %s", method, op.path, answer.status, status, answer.body)
				}
			})
		}
	}
}

// provoke changes a good request so that it is answered with the given status, and returns the answer.
func provoke(t *testing.T, status, method, target, body string) answer {
	t.Helper()
	service := &fakeService{}
	cfg := httpapi.Config{MaxBody: 1000}
	fails := func(code envelope.Code) answer {
		service.err = &envelope.Error{Code: code, Message: "as the test wants it"}
		return newHarness(t, cfg, service).do(method, target, body)
	}
	switch status {
	case "400":
		if body == "" { // it has no body
			return newHarness(t, cfg, service).do(method, strings.Split(target, "?")[0]+"?nonsense=1", "")
		}
		if strings.HasSuffix(target, "/stream") { // A bad line is only a failed result.
			return newHarness(t, cfg, service).do(method, target, body, "Idempotency-Key: k")
		}
		return newHarness(t, cfg, service).do(method, target, `{"nonsense":1}`)
	case "401", "429":
		cfg.Keys = []httpapi.Key{{Name: "backend", Key: "secret", Rate: 1, Burst: 1}}
		h := newHarness(t, cfg, service)
		if status == "401" {
			return h.do(method, target, body)
		}
		h.do(method, target, body, "X-API-Key: secret")
		return h.do(method, target, body, "X-API-Key: secret")
	case "403":
		scope := "rooms"
		if method == "PUT" || method == "DELETE" { // these need it
			scope = "read"
		}
		cfg.Keys = []httpapi.Key{{Name: "backend", Key: "secret", Scopes: []string{scope}}}
		return newHarness(t, cfg, service).do(method, target, body, "X-API-Key: secret")
	case "404":
		return fails(envelope.CodeNotFound)
	case "405":
		return newHarness(t, cfg, service).do("PATCH", target, body)
	case "409":
		return fails(envelope.CodeConflict)
	case "408":
		h := newHarness(t, cfg, service)
		r := httptest.NewRequest(method, "http://127.0.0.1"+target, slowBody{})
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		return answer{status: w.Code, header: w.Header(), body: w.Body.String()}
	case "413":
		return newHarness(t, cfg, service).do(method, target, `{"user":"`+strings.Repeat("x", 2000)+`"}`)
	case "500":
		service.nodes = func() []logic.NodeInfo { panic("as the test wants it") }
		service.notices = func(uint64, int) []logic.Notice { panic("as the test wants it") }
		service.err = errors.New("a secret of the server")
		a := newHarness(t, cfg, service).do(method, target, body)
		if strings.Contains(a.body, "secret") || strings.Contains(a.body, "as the test") {
			t.Errorf("the answer tells what is the server's: %s", a.body)
		}
		return a
	case "503":
		return fails(envelope.CodeUnavailable)
	case "507":
		return fails(envelope.CodeDiskFull)
	}
	return newHarness(t, cfg, service).do(method, target, body)
}

// TestOpenAPIScopes compares the scopes of the document with those of the routes.
func TestOpenAPIScopes(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	scopes := newHarness(t, httpapi.Config{}, nil).api.Scopes()
	for _, op := range doc.operations {
		if route := op.method + " " + op.path; op.Scope == "" || op.Scope != string(scopes[route]) {
			t.Errorf("%s has x-scope %q in the document, %q in the table of routes", route, op.Scope, scopes[route])
		}
	}
}

// slowBody is a body whose read deadline has passed.
type slowBody struct{}

func (slowBody) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
