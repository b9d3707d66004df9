package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic/httpapi"
)

func TestRead(t *testing.T) {
	many := strings.Repeat(`"7",`, protocol.MaxReadIDs) + `"7"`
	for _, tt := range []struct {
		body  string
		want  *envelope.Read
		field string // that is wrong
	}{
		{`{"up_to":"281474976710657"}`, &envelope.Read{User: "alice", UpTo: 281474976710657}, ""},
		{`{"up_to":"18446744073709551615"}`, &envelope.Read{User: "alice", UpTo: 1<<64 - 1}, ""},
		{`{"ids":["7","8"],"device":"phone"}`, &envelope.Read{User: "alice", Device: "phone", Ids: []uint64{7, 8}}, ""},
		{`{"ids":["7"],"up_to":"5"}`, &envelope.Read{User: "alice", UpTo: 5, Ids: []uint64{7}}, ""},
		{`{"ids":[` + many[4:] + `]}`, &envelope.Read{User: "alice", Ids: slicesOf(7, protocol.MaxReadIDs)}, ""},
		{`{}`, nil, "ids"},
		{`{"ids":[]}`, nil, "ids"},
		{`{"up_to":"0"}`, nil, "ids"},
		{`{"up_to":""}`, nil, "up_to"},
		{`{"up_to":"x"}`, nil, "up_to"},
		{`{"up_to":7}`, nil, "up_to"},
		{`{"ids":"7"}`, nil, "ids"},
		{`{"ids":["7","-8"]}`, nil, "ids[1]"},
		{`{"ids":[7]}`, nil, "ids[0]"},
		{`{"ids":[` + many + `]}`, nil, "ids"},
		{`{"ids":["7"],"device":""}`, nil, "device"},
		{`{"ids":["7"],"device":"` + strings.Repeat("x", 129) + `"}`, nil, "device"},
		{`{"ids":["7"],"user":"b"}`, nil, "user"},
	} {
		for _, target := range []string{"/v1/users/alice/read", "/v1/user/read?user=alice"} {
			h := newHarness(t, httpapi.Config{}, nil)
			a := h.do("POST", target, tt.body)
			if tt.want == nil {
				if _, field, _ := a.problem(t); a.status != 400 || field != tt.field || len(h.service.recorded()) > 0 {
					t.Errorf("%.60s: %d %s; did %q", tt.body, a.status, a.body, h.service.recorded())
				}
				continue
			}
			if a.status != 200 || a.body != "{\"sessions\":2}\n" || fmt.Sprint(h.service.recorded()) != "[read alice]" {
				t.Errorf("%.60s: %d %s; did %q", tt.body, a.status, a.body, h.service.recorded())
			}
			if diff := cmp.Diff(&envelope.ReadRequest{Read: tt.want}, h.service.read, protocmp.Transform()); diff != "" {
				t.Errorf("%.60s: %s", tt.body, diff)
			}
		}
	}
}

func slicesOf(id uint64, n int) (ids []uint64) {
	for range n {
		ids = append(ids, id)
	}
	return ids
}
