package httpapi_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// FuzzPushBody checks that every body is answered with 202 and one valid push, or with 400 and no
// push. The answer is always JSON.
func FuzzPushBody(f *testing.F) {
	for _, seed := range []string{
		`{"user":"alice","body":{"test":1}}`,
		`{"users":["a","b"],"body":[1,2.5e3,"x\u00e9\n",null,true,{"a":{}}],"ttl":"24h","op":1000}`,
		`{"room":"live://1","body_text":"hello","idempotency_key":"k"}`,
		`{"all":true,"body_base64":"AAH/","kept":false}`,
		`{"keys":["k"],"body":1,"kept":true}`,
		`{"user":"a","user":"b","body":1}`,
		`{"user":"a","body":1}x`,
		`{"user":"\ud800","body":1}`,
		"{\"user\":\"\xff\",\"body\":1}",
		`{"user":"a","body":` + strings.Repeat("[", 1001) + strings.Repeat("]", 1001) + `}`,
		`{"ttl":1e999,"user":"a","body":01}`,
		`[]`, `{`, ``, `{"":""}`, `{"body" : [ 1 , 2 ] , "user":"a"}`,
	} {
		f.Add([]byte(seed))
	}
	service := &fakeService{}
	a, err := httpapi.New(withDefaults(httpapi.Config{MaxUsers: 100}), service, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		service.mu.Lock()
		service.pushes, service.calls = nil, nil
		service.mu.Unlock()
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, httptest.NewRequest("POST", "http://127.0.0.1/v1/push", strings.NewReader(string(body))))
		if !json.Valid(w.Body.Bytes()) || !utf8.Valid(w.Body.Bytes()) {
			t.Fatalf("the answer is not JSON: %q", w.Body)
		}
		cmd := service.lastPush()
		switch {
		case w.Code == 400 && cmd == nil:
			return
		case w.Code != 202 || cmd == nil:
			t.Fatalf("answered %d, pushed %+v: %s", w.Code, cmd, w.Body)
		}
		checkFuzzed(t, body, cmd)
	})
}

// checkFuzzed compares a push with the result of the standard library's decoder.
func checkFuzzed(t *testing.T, body []byte, cmd *logic.PushCommand) {
	t.Helper()
	if !json.Valid(body) || !utf8.Valid(body) {
		t.Fatalf("accepted what is not JSON: %q", body)
	}
	var doc struct {
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatalf("accepted what the standard library refuses: %v", err)
	}
	if doc.Body != nil && string(doc.Body) != string(cmd.Body) {
		t.Fatalf("pushed %q of %q", cmd.Body, body)
	}
	targets := 0
	for _, is := range []bool{len(cmd.Users) > 0, len(cmd.Keys) > 0, cmd.Room != "", cmd.All} {
		if is {
			targets++
		}
	}
	if targets != 1 || cmd.Kept && len(cmd.Users) == 0 || cmd.TTL < 0 || cmd.TTL > 0 && !cmd.Kept {
		t.Fatalf("pushed %+v", *cmd)
	}
}
