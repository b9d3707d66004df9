package comet_test

import (
	"fmt"
	"testing"

	"imgo/protocol"
	"imgo/roles/comet"
)

// TestDrainNamesOthers checks that a stopping comet sends version-2 clients the addresses of at most
// five other comets for their transport. Older clients get no addresses, nor do clients that are
// closed for another reason.
func TestDrainNamesOthers(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.Others = func(network string) (others []string) {
			for i := range 7 {
				others = append(others, fmt.Sprintf("%s%d:80", network, i))
			}
			return others
		}
	})
	named := func(network string) string {
		return fmt.Sprintf(`{"code":3001,"reason":"the server is stopping","reconnect":true,`+
			`"addresses":["%[1]s0:80","%[1]s1:80","%[1]s2:80","%[1]s3:80","%[1]s4:80"]}`, network)
	}
	const goim = `{"mid":123,"key":"","room_id":"live://1","platform":"web","accepts":[]}`
	clients := []struct {
		name    string
		c       *client
		version int16
		auth    string
		want    string
	}{
		{"v2 on TCP", s.dialTCP(), 2, `{"token":"a"}`, named("tcp")},
		{"v2 on WebSocket", s.dialWS(false), 2, `{"token":"b"}`, named("ws")},
		{"v2 in JSON", s.dialWS(true), 2, `{"token":"c"}`, named("ws")},
		{"imgo on TCP", s.dialTCP(), 1, `tok`, ""},
		{"imgo in JSON", s.dialWS(true), 1, `"tok"`, ""},
		{"goim on TCP", s.dialTCP(), 1, goim, ""},
		{"goim on WebSocket", s.dialWS(false), 1, goim, ""},
	}
	for _, tt := range clients {
		tt.c.send(tt.version, protocol.OpAuth, 1, tt.auth)
		if p := tt.c.receive(); p.Op != protocol.OpAuthReply {
			t.Fatalf("%s: auth was answered with op %d %s", tt.name, p.Op, p.Body)
		}
	}
	kicked := s.connected(len(clients), "kicked", 0)
	s.push(s.kick(len(clients), protocol.CloseKicked, "go away"))
	kicked.expect(protocol.OpDisconnect, 0, `{"code":3506,"reason":"go away","reconnect":false}`)

	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range clients {
		if tt.want == "" { // An old client gets the end alone.
			tt.c.wantEnd(protocol.CloseShutdown)
			continue
		}
		p := tt.c.receive()
		if p.Op != protocol.OpDisconnect || string(p.Body) != tt.want {
			t.Errorf("%s got op %d %s, want %s", tt.name, p.Op, p.Body, tt.want)
		}
		tt.c.wantEnd(protocol.CloseShutdown)
	}
}
