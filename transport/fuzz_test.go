package transport_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"imgo/protocol"
	"imgo/transport"
)

const fuzzMaxBody = 4096

// FuzzPacket checks that decoding never panics and never reads beyond its input. Both decoders must
// agree, and a decoded packet must encode to the same bytes.
func FuzzPacket(f *testing.F) {
	f.Add(transport.AppendPacket(nil, 1, protocol.HeaderV1, 7, 1, 0, []byte(`"token"`)))
	f.Add(transport.AppendPacket(nil, 2, protocol.HeaderV2, 5, 0, 1<<48|7, []byte("body")))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, rest, err := transport.DecodePacket(b, fuzzMaxBody)
		var buf [protocol.HeaderV2]byte
		r := bytes.NewReader(b)
		p2, err2 := transport.ReadPacket(r, &buf, fuzzMaxBody)
		var bad *transport.ProtocolError
		switch {
		case !sameError(err, err2):
			t.Fatalf("DecodePacket: %v, ReadPacket: %v", err, err2)
		case errors.As(err, &bad):
			if bad.Kind == "" || bad.Reason == "" || bad.Code < 3500 || bad.Code > 3999 {
				t.Fatalf("refused without saying why: %#v", bad)
			}
			return
		case err != nil:
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatal(err)
			}
			return
		}
		if !reflect.DeepEqual(p, p2) || r.Len() != len(rest) {
			t.Fatalf("DecodePacket: %+v and %d left, ReadPacket: %+v and %d left", p, len(rest), p2, r.Len())
		}
		p3, err := transport.ReadPacket(iotest.OneByteReader(bytes.NewReader(b)), &buf, fuzzMaxBody)
		if err != nil || !reflect.DeepEqual(p, p3) {
			t.Fatalf("byte by byte: %+v, %v, at once: %+v", p3, err, p)
		}
		if len(p.Body) > fuzzMaxBody || cap(p2.Body) > fuzzMaxBody {
			t.Fatalf("body of %d bytes (%d held) for a limit of %d", len(p.Body), cap(p2.Body), fuzzMaxBody)
		}
		headerLen := len(b) - len(rest) - len(p.Body)
		was := b[:len(b)-len(rest)]
		if length := int32(binary.BigEndian.Uint32(b)); length < protocol.HeaderV1 { // means an empty body
			was = binary.BigEndian.AppendUint32(nil, protocol.HeaderV1)
			was = append(was, b[4:protocol.HeaderV1]...)
		}
		if got := transport.AppendPacket(nil, p.Version, headerLen, p.Op, p.Seq, p.ID, p.Body); !bytes.Equal(got, was) {
			t.Fatalf("encoded again: % x, was % x", got, b)
		}
	})
}

func sameError(a, b error) bool {
	var pa, pb *transport.ProtocolError
	if errors.As(a, &pa) && errors.As(b, &pb) {
		return *pa == *pb
	}
	return a == b
}

// FuzzJSONFrame checks that an accepted text message has the same meaning for encoding/json. Its body
// must be a part of the message, and nothing may panic.
func FuzzJSONFrame(f *testing.F) {
	f.Add([]byte(`{"ver":1,"op":7,"seq":1,"body":"the token"}`))
	f.Add([]byte(`[{"ver":1,"op":7,"seq":1,"body":{}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := transport.ParseJSON(b, len(b))
		if err != nil {
			var bad *transport.ProtocolError
			if !errors.As(err, &bad) || bad.Kind != "bad_json" && bad.Kind != "bad_utf8" {
				t.Fatalf("%#v", err)
			}
			return
		}
		var want struct {
			Ver  int16
			Op   int32
			Seq  int32
			Body json.RawMessage
		}
		if err := json.NewDecoder(bytes.NewReader(b)).Decode(&want); err != nil {
			t.Fatalf("took %q, which encoding/json refuses: %v", b, err)
		}
		if p.Version != want.Ver || p.Op != want.Op || p.Seq != want.Seq {
			t.Fatalf("%+v, encoding/json says %+v in %q", p, want, b)
		}
		if !bytes.Equal(p.Body, want.Body) || !bytes.Contains(b, p.Body) {
			t.Fatalf("body %q, encoding/json says %q", p.Body, want.Body)
		}
	})
}

// FuzzJSONBody checks that the frame of any body is valid JSON and valid UTF-8 with its members in
// order. The body can be restored from it.
func FuzzJSONBody(f *testing.F) {
	f.Add([]byte(`{"test":1}`), uint64(0))
	f.Add([]byte("come \"on\"\n"), uint64(1<<48|1))
	f.Fuzz(func(t *testing.T, body []byte, id uint64) {
		for _, form := range []transport.Form{transport.FormImgoJSON, transport.FormV2JSON} {
			frame := transport.NewMessage(5, id, body).Frame(form)
			if !json.Valid(frame) || !utf8.Valid(frame) {
				t.Fatalf("frame %q of body %q", frame, body)
			}
			var objects []struct {
				Ver  int             `json:"ver"`
				Op   int             `json:"op"`
				Seq  int             `json:"seq"`
				ID   uint64          `json:"id,string"`
				Body json.RawMessage `json:"body"`
			}
			if err := json.Unmarshal(frame, &objects); err != nil || len(objects) != 1 {
				t.Fatalf("frame %q: %v", frame, err)
			}
			if o := objects[0]; o.Op != 5 || o.Seq != 0 || form == transport.FormV2JSON && (o.ID != id || o.Ver != 2) {
				t.Fatalf("frame %q", frame)
			}
			want := bytes.TrimSpace(body)
			if form == transport.FormImgoJSON && utf8.Valid(body) && json.Valid(body) {
				want = htmlSafe(t, body)
			}
			if got := bodyBack(t, objects[0].Body, body); !bytes.Equal(got, want) {
				t.Fatalf("body %q came back as %q in %q", body, got, frame)
			}
		}
	})
}

// htmlSafe encodes JSON as encoding/json does for the old server.
func htmlSafe(t *testing.T, body []byte) []byte {
	t.Helper()
	b, err := json.Marshal(json.RawMessage(body))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bodyBack undoes the encoding of body, which depends on the kind of body.
func bodyBack(t *testing.T, raw json.RawMessage, body []byte) []byte {
	t.Helper()
	switch {
	case len(body) == 0:
		if string(raw) != `{}` {
			t.Fatalf("an empty body became %q", raw)
		}
		return nil
	case !utf8.Valid(body):
		var o map[string]string
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
		b, err := base64.StdEncoding.DecodeString(o["base64"])
		if err != nil {
			t.Fatal(err)
		}
		return bytes.TrimSpace(b)
	case json.Valid(body):
		return raw
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace([]byte(s))
}
