package transport_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"imgo/protocol"
	"imgo/transport"
)

func TestParseJSON(t *testing.T) {
	for text, want := range map[string]transport.Packet{
		`{"ver":1,"op":7,"seq":1,"body":"the token"}`:                  {Version: 1, Op: 7, Seq: 1, Body: []byte(`"the token"`)},
		`{"ver":1,"op":2,"seq":3,"body":{}}`:                           {Version: 1, Op: 2, Seq: 3, Body: []byte(`{}`)},
		`{"op":2}`:                                                     {Op: 2},
		" \t\r\n{ \"body\" : [ 1 , {\"a\" : null} ] , \"op\" : 4 }\n ": {Op: 4, Body: []byte(`[ 1 , {"a" : null} ]`)},
		`{"ver":-32768,"op":-2147483648,"seq":2147483647}`:             {Version: -32768, Op: -2147483648, Seq: 2147483647},
		`{"op":1,"op":2,"body":1,"body":"last"}`:                       {Op: 2, Body: []byte(`"last"`)},
		`{"x":{"op":9},"op":4,"id":"7","ö":[[]]}`:                      {Op: 4, ID: 7},
		`{"ver":2,"op":4,"id":"18446744073709551615"}`:                 {Version: 2, Op: 4, ID: 1<<64 - 1},
		`{"id":"7","ver":2,"op":4,"id":null}`:                          {Version: 2, Op: 4, ID: 7},
		`{"ver":1,"op":4,"id":"-7"}`:                                   {Version: 1, Op: 4}, // as an old client may have sent it
		`{"ver":1,"op":4,"id":{"a":7}}`:                                {Version: 1, Op: 4},
		`{"op":4,"id":7}`:                                              {Op: 4},
		`{"ver":2,"op":4,"ID":"x","id":"007"}`:                         {Version: 2, Op: 4, ID: 7},
		`{"\u006fp":5,"b\u006fdy":true}`:                               {Op: 5, Body: []byte(`true`)},
		`{"op":-0,"seq":0,"body":-1.5e+10}`:                            {Body: []byte(`-1.5e+10`)},
		`{"op":4,"body":"\"\\\/\b\f\n\r\täöü😀"}`:                       {Op: 4, Body: []byte(`"\"\\\/\b\f\n\r\täöü😀"`)},
		`{"op":4,"body":null}`:                                         {Op: 4, Body: []byte(`null`)},
		`{"OP":1,"op":4,"Body":1}`:                                     {Op: 4, Body: []byte(`1`)},
		`{"Ver":1,"Op":7,"Body":"77"}`:                                 {Version: 1, Op: 7, Body: []byte(`"77"`)},
		`{"ver":1,"op":2,"op":null,"seq":null}`:                        {Version: 1, Op: 2},
		"{\"op\":7}\x00":                                               {Op: 7},
		"{\"op\":7}\n":                                                 {Op: 7},
		`{"op":7}{"op":8}`:                                             {Op: 7},
		`{"op":7} x`:                                                   {Op: 7},
		"{\"op\":7}\xff":                                               {Op: 7},
	} {
		got, err := transport.ParseJSON([]byte(text), protocol.DefaultMaxBody)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %q, %v; want %+v", text, got, got.Body, err, want)
		}
	}
}

func TestParseJSONRefused(t *testing.T) {
	nested := func(open, shut string, n int) string {
		return `{"op":4,"body":` + strings.Repeat(open, n) + "1" + strings.Repeat(shut, n) + `}`
	}
	if _, err := transport.ParseJSON([]byte(nested("[", "]", 512)), protocol.DefaultMaxBody); err != nil {
		t.Errorf("512 deep: %v", err)
	}
	for name, text := range map[string]string{
		"nothing":                "",
		"space":                  "  ",
		"array":                  `[{"ver":1,"op":7,"seq":1,"body":"token"}]`,
		"string":                 `"token"`,
		"number":                 `7`,
		"null":                   `null`,
		"id as number":           `{"ver":2,"op":24,"id":7}`,
		"id with sign":           `{"ver":2,"op":24,"id":"+7"}`,
		"id empty":               `{"ver":2,"op":24,"id":""}`,
		"id of one byte":         `{"ver":2,"op":24,"id":1}`,
		"id under 0":             `{"id":"-1","ver":2,"op":24}`,
		"id over uint64":         `{"ver":2,"op":24,"id":"18446744073709551616"}`,
		"id as array":            `{"ver":2,"op":24,"id":["7"]}`,
		"no op":                  `{"ver":1,"seq":1,"body":{}}`,
		"op as string":           `{"op":"7"}`,
		"op with fraction":       `{"op":7.0}`,
		"op with exponent":       `{"op":7e0}`,
		"op null":                `{"op":null}`,
		"op over int32":          `{"op":2147483648}`,
		"op under int32":         `{"op":-2147483649}`,
		"op huge":                `{"op":` + strings.Repeat("9", 1000) + `}`,
		"ver over int16":         `{"op":7,"ver":32768}`,
		"seq over int32":         `{"op":7,"seq":4294967296}`,
		"leading zero":           `{"op":07}`,
		"plus":                   `{"op":+7}`,
		"truncated":              `{"ver":1,"op":7,"seq":1,"body":"tok`,
		"truncated character":    "{\"op\":7,\"body\":\"\xe2\x82",
		"truncated escape":       `{"op":7,"body":"\`,
		"truncated unicode":      `{"op":7,"body":"\u12"`,
		"bad escape":             `{"op":7,"body":"\x"}`,
		"bad hex":                `{"op":7,"body":"\u12g4"}`,
		"control character":      "{\"op\":7,\"body\":\"a\nb\"}",
		"single quotes":          `{'op':7}`,
		"bare name":              `{op:7}`,
		"trailing comma":         `{"op":7,}`,
		"leading comma":          `{,"op":7}`,
		"no comma":               `{"op":7"seq":1}`,
		"no colon":               `{"op" 7}`,
		"no value":               `{"op":7,"body":}`,
		"comment":                `{"op":7/* */}`,
		"NaN":                    `{"op":7,"body":NaN}`,
		"bad literal":            `{"op":7,"body":tru}`,
		"byte order mark":        "\uFEFF{\"op\":7}",
		"crossed brackets":       `{"op":7,"body":[{]}}`,
		"array as object":        `{"op":7,"body":["a":1]}`,
		"object without names":   `{"op":7,"body":{1}}`,
		"comma in array":         `{"op":7,"body":[1,]}`,
		"comma in object":        `{"op":7,"body":{"a":1,}}`,
		"513 deep":               nested("[", "]", 513),
		"10000 deep, arrays":     nested("[", "]", 10000),
		"10000 deep, objects":    nested(`{"a":`, "}", 10000),
		"a million, never shut":  `{"op":4,"body":` + strings.Repeat("[", 1e6),
		"deep in another member": `{"op":4,"x":` + strings.Repeat(`[`, 10000) + `}`,
		"fraction without digit": `{"op":7,"body":1.}`,
		"exponent without digit": `{"op":7,"body":1e}`,
		"only a minus":           `{"op":7,"body":-}`,
	} {
		_, err := transport.ParseJSON([]byte(text), protocol.DefaultMaxBody)
		var bad *transport.ProtocolError
		if !errors.As(err, &bad) || bad.Kind != "bad_json" || bad.Code != protocol.CloseBadPacket {
			t.Errorf("%s: %v, want kind bad_json", name, err)
		}
	}
	for name, text := range map[string]string{
		"in a string": "{\"op\":7,\"body\":\"\xff\"}",
		"in a name":   "{\"op\":7,\"\xc3\":1}",
		"surrogate":   "{\"op\":7,\"body\":\"\xed\xa0\x80\"}",
		"overlong":    "{\"op\":7,\"body\":\"\xc0\xaf\"}",
	} {
		_, err := transport.ParseJSON([]byte(text), protocol.DefaultMaxBody)
		var bad *transport.ProtocolError
		if !errors.As(err, &bad) || bad.Kind != "bad_utf8" {
			t.Errorf("invalid UTF-8 %s: %v, want kind bad_utf8", name, err)
		}
	}
}

// TestJSONBodyLimit checks that the limit on bodies holds for what a body of a text message stands for: a text, bytes in base64,
// or JSON.
func TestJSONBodyLimit(t *testing.T) {
	const limit = 1000
	text := func(n int) string { return strings.Repeat("x", n) }
	for name, test := range map[string]struct {
		body string
		size int // 0: it is not refused
	}{
		"a text":                  {`"` + text(limit) + `"`, 0},
		"a longer text":           {`"` + text(limit+1) + `"`, limit + 1},
		"a text of escapes":       {`"` + strings.Repeat(`\n`, limit) + `"`, 0},
		"a longer one":            {`"` + strings.Repeat(`\n`, limit+1) + `"`, limit + 1},
		"long escapes":            {`"` + strings.Repeat(`\u00e4`, limit/2) + `"`, 0},
		"bytes":                   {`{"base64":"` + base64.StdEncoding.EncodeToString(make([]byte, limit)) + `"}`, 0},
		"more bytes":              {`{"base64":"` + base64.StdEncoding.EncodeToString(make([]byte, limit+1)) + `"}`, limit + 1},
		"base64 and more":         {`{"base64":"` + text(limit) + `","a":1}`, limit + 19},
		"no base64":               {`{"base64":[` + strings.Repeat("1,", limit) + `1]}`, 2*limit + 14},
		"an object":               {`{"a":"` + text(limit-8) + `"}`, 0},
		"a larger object":         {`{"a":"` + text(limit-7) + `"}`, limit + 1},
		"an object of escapes":    {`{"a":"` + strings.Repeat(`\n`, limit/2) + `"}`, limit + 8},
		"a larger array":          {`[` + strings.Repeat("1,", limit) + `1]`, 2*limit + 3},
		"a large number":          {strings.Repeat("1", limit+1), limit + 1},
		"a small body, much else": {`1,"other":"` + text(2*limit) + `"`, 0},
	} {
		_, _, err := transport.DecodeMessage([]byte(`{"ver":1,"op":4,"body":`+test.body+`}`), true, limit)
		var bad *transport.ProtocolError
		switch {
		case test.size == 0 && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.size == 0:
		case !errors.As(err, &bad) || bad.Kind != "too_large" || bad.Code != protocol.CloseTooLarge ||
			bad.Reason != fmt.Sprintf("body of %d bytes is over the limit of %d", test.size, limit):
			t.Errorf("%s: %v, want a body of %d bytes to be refused", name, err, test.size)
		}
	}
}

func TestParseJSONCostsNothingPerLevel(t *testing.T) {
	deep := []byte(`{"op":4,"body":` + strings.Repeat("[", 512) + strings.Repeat("]", 512) + `}`)
	if n := testing.AllocsPerRun(100, func() { _, _ = transport.ParseJSON(deep, protocol.DefaultMaxBody) }); n > 2 {
		t.Errorf("ParseJSON of 512 levels allocates %.0f times", n)
	}
}

func TestServerFrameBody(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	for name, test := range map[string]struct{ body, want string }{
		"empty":               {"", `{}`},
		"object":              {`{"test":1}`, `{"test":1}`},
		"as it is":            {" {\n\"b\" : 1.0e2, \"a\":\"\\u00e9<&>\" }\n", " {\n\"b\" : 1.0e2, \"a\":\"\\u00e9<&>\" }\n"},
		"line separator":      {"\"\u2028\"", "\"\u2028\""},
		"array":               {`[1,2]`, `[1,2]`},
		"string":              {`"hi"`, `"hi"`},
		"number":              {`-12.5`, `-12.5`},
		"null":                {`null`, `null`},
		"text":                {`hello`, `"hello"`},
		"text to escape":      {"a\"b\\c\nd\re\tf\x00g\x1f<&>", `"a\"b\\c\nd\re\tf\u0000g\u001f<&>"`},
		"text beyond ASCII":   {"grüße 😀\u2028", "\"grüße 😀\u2028\""},
		"space":               {"  ", `"  "`},
		"truncated JSON":      {`{"a":`, `"{\"a\":"`},
		"two values":          {`{}{}`, `"{}{}"`},
		"bytes":               {"\xff\x00\x01", `{"base64":"/wAB"}`},
		"JSON, not UTF-8":     {"\"\xff\"", `{"base64":"Iv8i"}`},
		"as deep as JSON may": {deep(9998), deep(9998)},
		"too deep":            {deep(9999), quoted(deep(9999))},
		"a million levels":    {strings.Repeat("[", 1e6), quoted(strings.Repeat("[", 1e6))},
	} {
		for form, head := range map[transport.Form]string{
			transport.FormImgoJSON: `[{"ver":0,"op":5,"seq":0,"body":`,
			transport.FormV2JSON:   `[{"ver":2,"op":5,"seq":0,"id":"281474976710663","body":`,
		} {
			frame := transport.NewMessage(5, 281474976710663, []byte(test.body)).Frame(form)
			want := head + test.want + `}]`
			if form == transport.FormImgoJSON { // as encoding/json encoded it
				var body, safe bytes.Buffer
				if err := json.Compact(&body, []byte(test.want)); err != nil {
					t.Fatal(err)
				}
				json.HTMLEscape(&safe, body.Bytes())
				want = head + safe.String() + "}]\n"
			}
			if string(frame) != want {
				t.Errorf("%s: %.200s, want %.200s", name, frame, want)
			}
			if !json.Valid(frame) {
				t.Errorf("%s: encoding/json refuses the frame", name)
			}
		}
	}
}
