package jsonread_test

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/internal/jsonread"
)

// request has a field of each type.
type request struct {
	Text     string
	Texts    []string
	Flag     bool
	Number   int64
	Duration time.Duration
	Bytes    []byte
	Raw      string
}

func (q *request) Field(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "text":
		q.Text, err = r.Text()
	case "texts":
		q.Texts, err = r.Texts(2)
	case "flag":
		q.Flag, err = r.Boolean()
	case "number":
		q.Number, err = r.Integer(-5, math.MaxInt64)
	case "duration":
		q.Duration, err = r.Duration()
	case "bytes":
		q.Bytes, err = r.Base64()
	case "raw":
		var raw []byte
		raw, err = r.Raw()
		q.Raw = string(raw)
	default:
		return jsonread.ErrUnknownField
	}
	return err
}

func TestObject(t *testing.T) {
	var got request
	err := jsonread.Object([]byte(` {"text":"a\u00e9","texts":["b",""],"flag":true,"number":9223372036854775807,`+
		`"duration":1.5,"bytes":"AAH/","raw": { "x" : [1, 2] } } `), &got)
	want := request{"aé", []string{"b", ""}, true, math.MaxInt64, 1500 * time.Millisecond, []byte{0, 1, 255}, `{ "x" : [1, 2] }`}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
}

// TestObjectErrors checks that each error names the field and the cause.
func TestObjectErrors(t *testing.T) {
	for _, tt := range []struct{ text, field, message string }{
		{``, "", "no body"},
		{`[]`, "", "must be a JSON object, not an array"},
		{`{"text":"a"}x`, "", "not valid JSON"},
		{`{"text":"a"} {}`, "", "more after its JSON value"},
		{`{"text":"a","text":"b"}`, "text", "twice"},
		{`{"te\u0078t":"a","text":"b"}`, "text", "twice"},
		{`{"other":1}`, "other", "not a field"},
		{`{"text":null}`, "text", "must be a string, not null"},
		{"{\"text\":\"\xff\"}", "text", "invalid UTF-8"},
		{"{\"te\xffxt\":1}", "", "invalid UTF-8"},
		{`{"texts":["a",1]}`, "texts[1]", "must be a string, not a number"},
		{`{"texts":["a","b","c"]}`, "texts", "more than 2"},
		{`{"flag":1}`, "flag", "must be true or false"},
		{`{"number":-6}`, "number", "from -5"},
		{`{"number":1.5}`, "number", "whole number"},
		{`{"number":1e300}`, "number", "whole number"},
		{`{"duration":"x"}`, "duration", "is not a duration"},
		{`{"duration":0}`, "duration", "at least a millisecond"},
		{`{"bytes":"A"}`, "bytes", "not base64"},
		{`{"raw":` + strings.Repeat("[", 1001) + strings.Repeat("]", 1001) + `}`, "raw", "nested more than 1000 deep"},
		{`{"raw":`, "raw", "ends early"},
	} {
		err := jsonread.Object([]byte(tt.text), &request{})
		var e *envelope.Error
		if !errors.As(err, &e) || e.Code != envelope.CodeInvalid || e.Field != tt.field || !strings.Contains(e.Error(), tt.message) {
			t.Errorf("%.40q: %v, want field %q and %q", tt.text, err, tt.field, tt.message)
		}
	}
}

// TestLenient checks that a lenient reader accepts repeated names, invalid UTF-8 and
// the same nesting as encoding/json.
func TestLenient(t *testing.T) {
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	text := "{\"a\":\"\xff\",\"a\":" + deep + "}"
	var names []string
	r := jsonread.NewLenient([]byte(text))
	err := r.Members(func(name []byte) error {
		names = append(names, string(name))
		_, err := r.Raw()
		return err
	})
	if err != nil || r.End() != nil || !reflect.DeepEqual(names, []string{"a", "a"}) {
		t.Errorf("read %q, %v", names, err)
	}
	r.Reset([]byte("\"\xff\""))
	if got, err := r.Text(); err != nil || got != "\ufffd" {
		t.Errorf("read %q, %v", got, err)
	}
}

// FuzzRaw checks that a reader accepts exactly the inputs that are valid JSON for
// encoding/json.
func FuzzRaw(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5e3,"x",null,true]}`, `01`, `"\ud800"`, "\"\xff\"", "[1,]", " 1 ", "1 2", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := jsonread.NewLenient(data)
		_, err := r.Raw()
		if err == nil {
			err = r.End()
		}
		if valid := json.Valid(data); valid != (err == nil) {
			t.Errorf("%q: %v, valid to the standard library: %v", data, err, valid)
		}
	})
}
