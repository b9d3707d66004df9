package events_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"imgo/internal/events"
)

// A body is a member of valid JSON whatever a client has sent, and at most about twice as long.
func TestAppendBody(t *testing.T) {
	deep := strings.Repeat("[", 501) + strings.Repeat("]", 501)
	for name, c := range map[string]struct{ body, want string }{
		"empty":          {"", `,"body_text":""`},
		"json":           {"{\"a\" : [1,\n 2]} ", `,"body":{"a":[1,2]}`},
		"json string":    {`"hi"`, `,"body":"hi"`},
		"text":           {"hi", `,"body_text":"hi"`},
		"two values":     {"1 2", `,"body_text":"1 2"`},
		"bytes":          {"\xff\x00", `,"body_base64":"/wA="`},
		"json of bytes":  {"\"\xff\"", `,"body_base64":"Iv8i"`},
		"deep":           {deep, `,"body_text":"` + deep + `"`},
		"control":        {strings.Repeat("\x01", 300), `,"body_base64":"` + strings.Repeat("AQEB", 100) + `"`},
		"little control": {"a\x01", `,"body_text":"a\u0001"`},
	} {
		got := string(events.AppendBody([]byte(`{"x":1`), []byte(c.body)))
		if got != `{"x":1`+c.want {
			t.Errorf("%s: %s", name, got)
		}
		if got += "}"; !json.Valid([]byte(got)) || !utf8.ValidString(got) || len(got) > 2*len(c.body)+100 {
			t.Errorf("%s: %d bytes for %d, or no JSON in UTF-8: %.100s", name, len(got), len(c.body), got)
		}
	}
}
