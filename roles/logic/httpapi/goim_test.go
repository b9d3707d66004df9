package httpapi_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// ginJSON is the Content-Type that goim's framework set.
const ginJSON = "application/json; charset=utf-8"

func goimHarness(t *testing.T) *harness {
	return newHarness(t, httpapi.Config{}, &fakeService{
		rooms: map[string]uint32{"live://1000": 5, "live://2000": 9, "live://<3>": 5, "chat://1": 7, "lobby": 3, "live": 4},
		stats: logic.Stats{Sessions: 42},
		nodes: func() []logic.NodeInfo {
			return []logic.NodeInfo{
				{Name: "b", Roles: []string{"comet"}, Address: "10.0.0.2:7170", Version: "1.0", StartMS: 1700000000123, Ready: true, Sessions: 5,
					Clients: map[string]string{"tcp": "10.0.0.2:8080", "ws": "ws2.example:8090"}},
				{Name: "a", Roles: []string{"logic", "comet"}, Address: "10.0.0.1:7170", Version: "1.0", StartMS: 1700000000000, Ready: true,
					Sessions: 2,
					Clients:  map[string]string{"tcp": "[::]:8081", "ws": "0.0.0.0:8091"}},
				{Name: "c", Roles: []string{"comet"}, Version: "1.0", StartMS: 1700000000000, Sessions: 1},
				{Name: "d", Roles: []string{"router"}, Address: "10.0.0.4:7170", Version: "1.0", Ready: true},
			}
		},
	})
}

// TestGoimGolden compares the answers of /goim byte for byte. The errors for bad queries were recorded
// from gin v1.7.0, goim's framework.
func TestGoimGolden(t *testing.T) {
	const body = "any \xff bytes"
	const ok = `{"code":0,"message":""}`
	const noInt = `{"code":-400,"message":"strconv.ParseInt: parsing \"abc\": invalid syntax"}`
	required := func(names ...string) string {
		var lines []string
		for _, name := range names {
			lines = append(lines, "Key: '"+name+"' Error:Field validation for '"+name+"' failed on the 'required' tag")
		}
		return `{"code":-400,"message":"` + strings.Join(lines, `\n`) + `"}`
	}
	push := func(cmd logic.PushCommand) *logic.PushCommand {
		cmd.Body, cmd.Goim = []byte(body), true
		return &cmd
	}
	for _, tt := range []struct {
		method, target string
		status         int
		contentType    string
		want           string
		push           *logic.PushCommand
	}{
		{"POST", "/goim/push/keys?operation=1000&keys=k1&keys=k2", 200, ginJSON, ok, push(logic.PushCommand{Keys: []string{"k1", "k2"},
			Op: 1000})},
		{"POST", "/goim/push/keys?operation=5&keys=&keys=k2", 200, ginJSON, ok,
			push(logic.PushCommand{Keys: []string{"k2"}, Op: protocol.OpIfAccepted})},
		{"POST", "/goim/push/keys?operation=5&keys=", 200, ginJSON, ok, nil},
		{"POST", "/goim/push/keys?operation=5", 200, ginJSON, `{"code":-400,"message":"keys is missing"}`, nil},
		{"POST", "/goim/push/keys?operation=abc&keys=k", 400, plain, noInt, nil},
		{"POST", "/goim/push/keys?operation=99999999999&keys=k", 400, plain,
			`{"code":-400,"message":"strconv.ParseInt: parsing \"99999999999\": value out of range"}`, nil},

		{"POST", "/goim/push/mids?operation=1000&mids=1&mids=2", 200, ginJSON, ok, push(logic.PushCommand{Users: []string{"1", "2"},
			Op: 1000, Kept: true})},
		{"POST", "/goim/push/mids?mids=5&mids=0&mids=-3", 200, ginJSON, ok, nil},
		{"POST", "/goim/push/mids?operation=-5&mids=5", 200, ginJSON, ok, nil},
		{"POST", "/goim/push/mids?operation=5&mids=5", 200, ginJSON, ok, push(logic.PushCommand{Users: []string{"5"},
			Op: protocol.OpIfAccepted, Kept: true})},
		{"POST", "/goim/push/mids?operation=1&mids=5", 200, ginJSON, ok, push(logic.PushCommand{Users: []string{"5"}, Op: 1, Kept: true})},
		{"POST", "/goim/push/room?operation=5&type=a&room=b", 200, ginJSON, ok, push(logic.PushCommand{Room: "a://b", Op: 5})},
		{"POST", "/goim/push/all?operation=5", 200, ginJSON, ok, push(logic.PushCommand{All: true, Op: protocol.OpIfAccepted})},
		{"POST", "/goim/push/mids?operation=1000", 200, ginJSON, ok, nil},
		{"POST", "/goim/push/mids?operation=1000&mids=", 200, ginJSON, ok, nil},
		{"POST", "/goim/push/mids?operation=1000&mids=abc", 400, plain, noInt, nil},
		{"POST", "/goim/push/mids?operation=1000&mids=1,2", 400, plain,
			`{"code":-400,"message":"strconv.ParseInt: parsing \"1,2\": invalid syntax"}`, nil},
		{"POST", "/goim/push/mids?operation=abc&mids=y", 400, plain, noInt, nil},
		{"POST", "/goim/push/mids?mids=-1&mids=99999999999999999999", 400, plain,
			`{"code":-400,"message":"strconv.ParseInt: parsing \"99999999999999999999\": value out of range"}`, nil},

		{"POST", "/goim/push/room?operation=1000&type=live&room=1000", 200, ginJSON, ok,
			push(logic.PushCommand{Room: "live://1000", Op: 1000})},
		{"POST", "/goim/push/room", 400, plain, required("Op", "Type", "Room"), nil},
		{"POST", "/goim/push/room?operation=0&type=a&room=b", 400, plain, required("Op"), nil},
		{"POST", "/goim/push/room?operation=1000&type=&room=b", 400, plain, required("Type"), nil},
		{"POST", "/goim/push/room?operation=abc&type=", 400, plain, noInt, nil},

		{"POST", "/goim/push/all?operation=1000&speed=32", 200, ginJSON, ok, push(logic.PushCommand{All: true, Op: 1000})},
		{"POST", "/goim/push/all?operation=1000", 200, ginJSON, ok, push(logic.PushCommand{All: true, Op: 1000})},
		{"POST", "/goim/push/all?operation=1000&speed=abc", 400, plain, noInt, nil},
		{"POST", "/goim/push/all", 400, plain, required("Op"), nil},

		{"GET", "/goim/online/top?type=live&limit=2", 200, ginJSON,
			`{"code":0,"message":"","data":[{"room_id":"2000","count":9},{"room_id":"1000","count":5}]}`, nil},
		{"GET", "/goim/online/top?type=live&limit=100", 200, ginJSON,
			`{"code":0,"message":"","data":[{"room_id":"2000","count":9},{"room_id":"1000","count":5},{"room_id":"\u003c3\u003e","count":5}]}`, nil},
		{"GET", "/goim/online/top?type=none&limit=100", 200, ginJSON, `{"code":0,"message":"","data":[]}`, nil},
		{"GET", "/goim/online/top", 400, plain, required("Type", "Limit"), nil},
		{"GET", "/goim/online/top?type=a&limit=0", 400, plain, required("Limit"), nil},
		{"GET", "/goim/online/top?type=a&limit=abc", 400, plain, noInt, nil},
		{"GET", "/goim/online/top?type=a&limit=-1", 200, ginJSON, `{"code":-400,"message":"limit must not be negative"}`, nil},
		{"GET", "/goim/online/room?type=live&rooms=1000&rooms=5", 200, ginJSON, `{"code":0,"message":"","data":{"1000":5,"5":0}}`, nil},
		{"GET", "/goim/online/room?type=live", 400, plain, required("Rooms"), nil},
		{"GET", "/goim/online/room", 400, plain, required("Type", "Rooms"), nil},
		{"GET", "/goim/online/total", 200, ginJSON, `{"code":0,"message":"","data":{"conn_count":42,"ip_count":42}}`, nil},

		{"GET", "/goim/nodes/weighted", 200, ginJSON, `{"code":0,"message":"","data":{"domain":"127.0.0.1","tcp_port":8081,"ws_port":8091,` +
			`"heartbeat":240,"nodes":["10.0.0.1","10.0.0.2"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":0.3},` +
			`"heartbeat_max":2}}`, nil},
		{"GET", "/goim/nodes/weighted?platform=web", 200, ginJSON,
			`{"code":0,"message":"","data":{"domain":"127.0.0.1","tcp_port":8081,"ws_port":8091,` +
				`"heartbeat":240,"nodes":["10.0.0.1","ws2.example"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,` +
				`"jitter":0.3},"heartbeat_max":2}}`, nil},
		{"GET", "/goim/nodes/instances", 200, ginJSON, `{"code":0,"message":"","data":[` +
			`{"region":"","zone":"","env":"","appid":"goim.comet","hostname":"b","addrs":["grpc://10.0.0.2:7170"],"version":"1.0",` +
			`"latest_timestamp":1700000000123000000,` +
			`"metadata":{"addrs":"10.0.0.2","conn_count":"5","ip_count":"5","offline":"false","weight":"10"}},` +
			`{"region":"","zone":"","env":"","appid":"goim.comet","hostname":"a","addrs":["grpc://10.0.0.1:7170"],"version":"1.0",` +
			`"latest_timestamp":1700000000000000000,` +
			`"metadata":{"addrs":"10.0.0.1","conn_count":"2","ip_count":"2","offline":"false","weight":"10"}},` +
			`{"region":"","zone":"","env":"","appid":"goim.comet","hostname":"c","addrs":[],"version":"1.0",` +
			`"latest_timestamp":1700000000000000000,` +
			`"metadata":{"addrs":"","conn_count":"1","ip_count":"1","offline":"true","weight":"10"}}]}`, nil},

		{"GET", "/goim/push/room?operation=1000&type=live&room=1000", 404, "text/plain", "404 page not found", nil},
		{"POST", "/goim/online/total", 404, "text/plain", "404 page not found", nil},
		{"GET", "/goim/nothing", 404, "text/plain", "404 page not found", nil},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			h := goimHarness(t)
			send := body
			if tt.method == "GET" {
				send = ""
			}
			a := h.do(tt.method, tt.target, send)
			if a.status != tt.status || a.body != tt.want || a.header.Get("Content-Type") != tt.contentType {
				t.Errorf("answered %d, %s\n%s\nwant %d, %s\n%s", a.status, a.header.Get("Content-Type"), a.body, tt.status, tt.contentType, tt.want)
			}
			if got := h.service.lastPush(); !reflect.DeepEqual(got, tt.push) {
				t.Errorf("pushed %+v, want %+v", got, tt.push)
			}
		})
	}
}

// TestGoimErrors checks how /goim reports the errors of the service. The service, not the API, refuses
// an operation that a push may not have.
func TestGoimErrors(t *testing.T) {
	const keys, mids, top = "/goim/push/keys?operation=7&keys=k", "/goim/push/mids?operation=7&mids=1", "/goim/online/top?type=a&limit=1"
	badOp := envelope.Invalid("op", "is 7: it must be 5, or 1000 and above")
	for _, tt := range []struct {
		target, method string
		err            error
		want           string
	}{
		{mids, "POST", badOp, `{"code":-400,"message":"op is 7: it must be 5, or 1000 and above"}`},
		{keys, "POST", badOp, `{"code":-400,"message":"op is 7: it must be 5, or 1000 and above"}`},
		{mids, "POST", envelope.ErrTooLarge, `{"code":-400,"message":"too_large"}`},
		{mids, "POST", envelope.Errorf(envelope.CodeUnavailable, "no owner"), `{"code":-500,"message":"no owner"}`},
		{mids, "POST", errors.New("a secret"), `{"code":-500,"message":"the server failed; its log says why"}`},
		{keys, "POST", errors.New("a secret"), `{"code":-400,"message":"the server failed; its log says why"}`},
		{top, "GET", errors.New("a secret"), `{"code":-400,"message":"the server failed; its log says why"}`},
		{"/goim/online/total", "GET", errors.New("a secret"), `{"code":-500,"message":"the server failed; its log says why"}`},
	} {
		h := newHarness(t, httpapi.Config{}, &fakeService{err: tt.err})
		if a := h.do(tt.method, tt.target, ""); a.status != 200 || a.body != tt.want || a.header.Get("Content-Type") != ginJSON {
			t.Errorf("%s with the error %q answered %d %s", tt.target, tt.err, a.status, a.body)
		}
	}
}
