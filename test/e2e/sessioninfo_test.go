package e2e_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgo/envelope"
)

// TestSessionInfoReachesTheAPI checks that every field of a session reaches the API by each way:
// the connect, the announcement of a comet to a router that forgot it, and the member list of a
// room. The test fails if a new field of SessionInfo is lost on the way.
func TestSessionInfoReachesTheAPI(t *testing.T) {
	n := start(t, nil)
	c := n.ws(t, false)
	c.login("v2", "alice", `,"device":"phone","key":"k","platform":"ios","accepts":[1000],"rooms":["r1","r2"]`)

	byUser := func() (sessions []map[string]any) {
		var reply struct{ Sessions []map[string]any }
		n.call(t, "GET", "/v1/users/alice", "").decode(t, &reply)
		return reply.Sessions
	}
	attached := byUser()
	if len(attached) != 1 {
		t.Fatalf("the user has the sessions %v", attached)
	}
	got := attached[0]
	for name, want := range map[string]any{
		"user": "alice", "device": "phone", "key": "k", "platform": "ios", "transport": "ws", "generation": "v2", "node": "n1",
		"accepts": []any{1000.0}, "rooms": []any{"r1", "r2"},
	} {
		if !reflect.DeepEqual(got[name], want) {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	// These fields have other names in the API, or are for the nodes only.
	inAPI := map[string][]string{"address": {"node", "name"}, "remote": {"address"}, "incarnation": nil, "rooms_at": nil, "arrival": nil}
	fields := (&envelope.SessionInfo{}).ProtoReflect().Descriptor().Fields()
	shown := 0
	for i := range fields.Len() {
		field := string(fields.Get(i).Name())
		names, ok := inAPI[field]
		if !ok {
			names = []string{field}
		}
		for _, name := range names {
			shown++
			if v, ok := got[name]; !ok || reflect.ValueOf(v).IsZero() {
				t.Errorf("the field %s is not in the API as %s: %v", field, name, got)
			}
		}
	}
	if shown != len(got) {
		t.Errorf("the API shows %d things of a session, %d are known here: %v", len(got), shown, got)
	}

	var room struct{ Members []map[string]any }
	n.call(t, "GET", "/v1/rooms/r1", "").decode(t, &room)
	if diff := cmp.Diff(attached, room.Members); diff != "" {
		t.Errorf("as a room's member (-attached +member):\n%s", diff)
	}

	// The router forgets all sessions of the comet before it answers.
	var count struct{ Data []struct{ Server int } }
	n.call(t, "GET", "/1/count?type=server", "").decode(t, &count)
	if len(count.Data) != 1 {
		t.Fatalf("there are the servers %v", count.Data)
	}
	n.call(t, "POST", fmt.Sprint("/1/server/del?server=", count.Data[0].Server), "").is(t, 200, `{"ret":1}`)
	var announced []map[string]any
	eventually(t, "the comet announces the session again", func() bool {
		announced = byUser()
		return len(announced) == 1
	})
	if diff := cmp.Diff(attached, announced); diff != "" {
		t.Errorf("as announced (-attached +announced):\n%s", diff)
	}
}
