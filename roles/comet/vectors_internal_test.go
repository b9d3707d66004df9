package comet

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"imgo/clients/vectors"
	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet/admission"
	"imgo/transport"
)

// These tests check that comet agrees with the files that the client libraries are tested with.

func TestVectorsAuth(t *testing.T) {
	type options struct {
		Token, Device, Platform string
		Rooms                   []string
		Accepts                 []int32
	}
	var file struct {
		Auth []struct {
			Name    string
			Options options
			Body    json.RawMessage
		}
		NewToken []struct {
			Token string
			Body  json.RawMessage
		} `json:"new_token"`
	}
	vectors.Read(t, "auth.json", &file)
	if len(file.Auth) < 5 || len(file.NewToken) == 0 {
		t.Fatalf("only %d and %d cases", len(file.Auth), len(file.NewToken))
	}
	for _, test := range file.Auth {
		got, err := parseAuth(transport.Packet{Version: protocol.Version2, Body: test.Body}, false, 10)
		want := test.Options
		slices.Sort(want.Rooms)
		if err != nil || !got.acks || got.token != want.Token || got.device != want.Device || got.platform != want.Platform ||
			!slices.Equal(got.rooms, slices.Compact(want.Rooms)) || !slices.Equal(got.accepts, want.Accepts) {
			t.Errorf("%s: comet reads %+v, %v", test.Name, got, err)
		}
	}
	for _, test := range file.NewToken {
		got, err := parseAuth(transport.Packet{Version: protocol.Version2, Body: test.Body}, false, 10)
		if err != nil || got.token != test.Token {
			t.Errorf("new token %q: comet reads %+v, %v", test.Token, got, err)
		}
	}
}

func TestVectorsAcks(t *testing.T) {
	var file struct {
		Acks []struct {
			Name string
			IDs  []string
			Hex  vectors.Hex
			JSON json.RawMessage
		}
	}
	vectors.Read(t, "acks.json", &file)
	if len(file.Acks) < 3 {
		t.Fatalf("only %d cases", len(file.Acks))
	}
	for _, test := range file.Acks {
		var want []uint64
		for _, text := range test.IDs {
			id, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, id)
		}
		if ids, err := bodyAckIDs(transport.FormV2, test.Hex); err != nil || !slices.Equal(ids, want) {
			t.Errorf("%s: comet reads %v, %v", test.Name, ids, err)
		}
		if ids, err := bodyAckIDs(transport.FormV2JSON, test.JSON); err != nil || !slices.Equal(ids, want) {
			t.Errorf("%s: comet reads %v from JSON, %v", test.Name, ids, err)
		}
	}
}

func TestVectorsDisconnect(t *testing.T) {
	var file struct {
		Disconnect []struct {
			Name, Body string
			Code       protocol.CloseCode
			Reason     string
			Reconnect  bool
			Addresses  []string
		}
		WebSocketClose []struct {
			Code      protocol.CloseCode
			Reconnect bool
		} `json:"websocket_close"`
	}
	vectors.Read(t, "close.json", &file)
	written := 0
	for _, test := range file.Disconnect {
		p, _, err := transport.DecodePacket(encodeDisconnect(transport.FormV2, test.Code, test.Reason, test.Addresses), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if string(p.Body) == test.Body && test.Code.Reconnect() == test.Reconnect {
			written++
		}
	}
	if written < 3 {
		t.Errorf("comet writes %d of the bodies, want those of a stop, a kick and an expired token", written)
	}
	for _, test := range file.WebSocketClose {
		if test.Code >= 3000 && test.Code.Reconnect() != test.Reconnect {
			t.Errorf("close code %d: reconnect is %t in the file", test.Code, test.Reconnect)
		}
	}
}

func TestVectorsAuthReplies(t *testing.T) {
	var file struct {
		Replies []struct {
			Name, Body, Session, User string
			HeartbeatMS               int64 `json:"heartbeat_ms"`
			ExpiresInMS               int64 `json:"expires_in_ms"`
			Pending                   uint32
			MaxBody                   int `json:"max_body"`
			Rooms                     []string
			Refused                   []*envelope.RoomRefusal
		}
	}
	vectors.Read(t, "auth_replies.json", &file)
	written := 0
	for _, test := range file.Replies {
		s := &session{comet: &Comet{}, extras: &extras{}, id: 1, speaks: protocolV2, form: transport.FormV2, user: test.User}
		s.comet.cfg.Heartbeat, s.comet.cfg.MaxBody = time.Duration(test.HeartbeatMS)*time.Millisecond, test.MaxBody
		s.rooms.granted.rooms = test.Rooms
		reply := &envelope.ConnectReply{Pending: test.Pending}
		if test.ExpiresInMS > 0 {
			reply.ExpiresMs = time.Now().UnixMilli() + test.ExpiresInMS + 300 // it is rounded to a second
		}
		waiting := connecting{session: s, pending: &admission.PendingConnect{}, auth: authBody{refused: test.Refused}}
		p, _, err := transport.DecodePacket(waiting.encodeAuthReplyLocked(reply), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var got, want map[string]any
		if err := json.Unmarshal(p.Body, &got); err != nil {
			t.Fatal(err)
		}
		if json.Unmarshal([]byte(test.Body), &want) != nil {
			continue // an old server's
		}
		got["session"] = test.Session // comet gives the session its name
		if reflect.DeepEqual(got, want) {
			written++
		}
	}
	if written < 3 {
		t.Errorf("comet writes %d of the bodies, want at least 3", written)
	}
}

func TestVectorsNames(t *testing.T) {
	var file struct{ Valid, Invalid []struct{ Text string } }
	vectors.Read(t, "names.json", &file)
	if len(file.Valid) < 5 || len(file.Invalid) < 5 {
		t.Fatalf("only %d and %d cases", len(file.Valid), len(file.Invalid))
	}
	for _, name := range file.Valid {
		if err := envelope.CheckName("name", name.Text); err != nil {
			t.Errorf("%q: %v", name.Text, err)
		}
	}
	for _, name := range file.Invalid {
		if envelope.CheckName("name", name.Text) == nil {
			t.Errorf("%q is taken", name.Text)
		}
	}
}
