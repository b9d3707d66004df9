package comet_test

import (
	"errors"
	"testing"

	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
	"imgo/transport/transporttest"
)

// FuzzAuthBody checks that the client gets an auth reply or op 6 for any auth body. The request to
// logic must be valid.
func FuzzAuthBody(f *testing.F) {
	for _, body := range []string{
		"tok", `"tok"`, `"to\u006b`, "{}", `{"mid":1,"key":"k","room_id":"live://1","platform":"web","accepts":[1000]}`,
		`{"token":"t","device":"d","ack":true,"rooms":["a","b"],"mid":"m"}`, `{"mid":1e400}`, `{"accepts":[99999999999]}`, "null", "[[[[", "\xff",
	} {
		f.Add(int16(1), body)
		f.Add(int16(2), body)
	}
	f.Fuzz(func(t *testing.T, version int16, body string) {
		if len(body) > protocol.DefaultMaxBody {
			return
		}
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{})
		c.send(version, protocol.OpAuth, 1, body)
		p, err := c.next()
		if closed := (*transporttest.Closed)(nil); errors.As(err, &closed) && closed.Code == protocol.CloseBadPacket {
			return // an old client
		}
		if err != nil {
			t.Fatal(err)
		}
		switch p.Op {
		case protocol.OpAuthReply:
			if _, err := s.logic.connected(0).MarshalVT(); err != nil {
				t.Fatal(err)
			}
		case protocol.OpDisconnect:
			c.wantEnd(3500)
		default:
			t.Fatalf("auth was answered with op %d", p.Op)
		}
	})
}

// FuzzAuthScan checks that parseAuth reads every auth body exactly as encoding/json does.
func FuzzAuthScan(f *testing.F) {
	for _, body := range []string{
		`{"token":"t","ack":true}`, ` { "mid" : 123, "room_id" : "live://1000", "platform":"web" , "accepts":[1000,1001,1002] } `, "{}",
		`{"token":"t","device":"d","key":"k","ack":false,"rooms":["a","b"],"mid":"m"}`, `{"mid":-9223372036854775808,"accepts":[],"rooms":[ ]}`,
		`{"token":"žluť"}`,
	} {
		f.Add(body)
	}
	for _, body := range []string{
		`{"mid":-0}`, `{"mid":01}`, `{"mid":1.0}`, `{"mid":1e3}`, `{"mid":9223372036854775808}`, `{"mid":null}`, `{"mid":-}`, `{"mid":1`,
		`{"token":"a\u0062"}`, "{\"token\":\"\xff\"}", "{\"token\":\"\x01\"}", `{"token":"a","token":"b"}`, `{"Token":"a"}`,
		`{"token":"a","TOKEN":"b"}`, `{"acKeptſ":1,"acceptſ":[5],"MID":7,"Room_Id":"r"}`,
		`{"a":1}`,
		`{"token":"a",}`, `{,}`, `{"token":"a"}x`, `{"rooms":["a",]}`, `{"rooms":["a" "b"]}`, `{"accepts":[2147483648]}`, `{"accepts":[1,"a"]}`,
		`{"ack":"true"}`, `{"ack":truex}`, `{"rooms":["a","a"],"room_id":"b"}`, `{"key":""}`,
		`{"rooms":[""]}`, `"tok"`, "tok", "", "{", "\ufeff{}",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if got, want := comet.AuthOf([]byte(body), 3); got != want {
			t.Errorf("%q is read as\n%s, and by encoding/json as\n%s", body, got, want)
		}
	})
}

// FuzzStream sends any bytes after the auth packet. The session must end when the client leaves, and
// release everything.
func FuzzStream(f *testing.F) {
	f.Add(int16(2), []byte(wire("00000018 0010 0002 00000012 00000005 0001000000000007", "")))
	f.Add(int16(2), []byte(wire("00000012 0010 0002 00000014 00000005", "r1")+wire("00000012 0010 0002 00000016 00000005", "r1")))
	f.Add(int16(1), []byte(wire("00000014 0010 0001 0000000e 00000005", "1000")+wire("00000010 0010 0001 0000000c 00000005", "")))
	f.Add(int16(1), []byte(wire("ffffffff 0010 0001 0000000e 00000005", "")))
	f.Fuzz(func(t *testing.T, version int16, b []byte) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.UpstreamRate = 0 })
		c := s.dialPipe(pipe.Options{Buffer: 1 << 20})
		c.send(version, protocol.OpAuth, 1, `{"mid":1}`)
		c.receive()
		_ = c.Send(b) // It fails if the server has closed already.
		_ = c.Close()
		eventually(t, "the session is gone", func() bool {
			return s.Sessions() == 0 && len(s.logic.gone()) == 1 && s.metric("imgo_comet_pending_bytes") == 0
		})
	})
}
