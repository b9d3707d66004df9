package httpapi_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// plain is the Content-Type that Go's server sets for a text.
const plain = "text/plain; charset=utf-8"

// TestImgoGolden compares the answers of /1 byte for byte: status, Content-Type and body. It also
// checks what was pushed.
func TestImgoGolden(t *testing.T) {
	const body = `{"test":1}`
	push := func(cmd logic.PushCommand) *logic.PushCommand {
		cmd.Op = 5
		return &cmd
	}
	for _, tt := range []struct {
		method, target, send string
		status               int
		want                 string
		push                 *logic.PushCommand
	}{
		{"POST", "/1/push?uid=0", body, 200, `{"ret":1}`, push(logic.PushCommand{Users: []string{"0"}, Body: []byte(body), Kept: true})},
		{"POST", "/1/push?uid=123", body, 200, `{"ret":1}`, push(logic.PushCommand{Users: []string{"123"}, Body: []byte(body), Kept: true})},
		{"POST", "/1/push?uid=9223372036854775807", body, 200, `{"ret":1}`,
			push(logic.PushCommand{Users: []string{"9223372036854775807"}, Body: []byte(body), Kept: true})},
		{"POST", "/1/push?uid=007", "not json \xff\x00", 200, `{"ret":1}`, push(logic.PushCommand{Users: []string{"7"},
			Body: []byte("not json \xff\x00"), Kept: true})},
		{"POST", "/1/push?uid=1", "", 200, `{"ret":65535}`, nil},
		{"POST", "/1/push?uid=1&uid=2", body, 200, `{"ret":1}`, push(logic.PushCommand{Users: []string{"1"}, Body: []byte(body), Kept: true})},
		{"POST", "/1/push", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push?uid=", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push?uid=abc", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push?uid=-1", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push?uid=1.5", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push?uid=9223372036854775808", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push?uid=99999999999999999999999", body, 200, `{"ret":65535}`, nil},
		{"GET", "/1/push?uid=1", "", 405, "Method Not Allowed\n", nil},
		{"PUT", "/1/push?uid=1", body, 405, "Method Not Allowed\n", nil},

		{"POST", "/1/pushs", `{"u":[1,2,3,4,5],"m":{"test": 1}}`, 200, `{"ret":1}`,
			push(logic.PushCommand{Users: []string{"1", "2", "3", "4", "5"}, Body: []byte(`{"test": 1}`), Kept: true})},
		{"POST", "/1/pushs", `{"m":"text","u":[0],"more":1}`, 200, `{"ret":1}`, push(logic.PushCommand{Users: []string{"0"},
			Body: []byte(`"text"`), Kept: true})},
		{"POST", "/1/pushs", `{"m":{"test":1},"u":[]}`, 200, `{"ret":1}`, nil},
		{"POST", "/1/pushs", `{"m":{"test":1}}`, 200, `{"ret":1}`, nil},
		{"POST", "/1/pushs", `{"m":{"test":1},"u":[1,-2]}`, 200, `{"ret":65535}`, nil},
		{"POST", "/1/pushs", `{"m":{"test":1},"u":[1,9223372036854775808]}`, 200, `{"ret":65535}`, nil},
		{"POST", "/1/pushs", `{"m":{"test":1},"u":[1,1.5]}`, 200, `{"ret":65535}`, nil},
		{"POST", "/1/pushs", `{"m":{"test":1},"u":"1,2,3"}`, 200, `{"ret":65535}`, nil},
		{"POST", "/1/pushs", `{"m":{"test":1},"u":["1"]}`, 200, `{"ret":65535}`, nil},
		{"POST", "/1/pushs", `{"m":`, 200, `{"ret":65535}`, nil},
		{"POST", "/1/pushs", ``, 200, `{"ret":65535}`, nil},
		{"POST", "/1/pushs", `{"u":[1],"m":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`, 200, `{"ret":65535}`, nil},
		{"GET", "/1/pushs", "", 405, "Method Not Allowed\n", nil},

		{"POST", "/1/push/room?rid=1", body, 200, `{"ret":1}`, push(logic.PushCommand{Room: "1", Body: []byte(body)})},
		{"POST", "/1/push/room?rid=2147483647&ensure=true", body, 200, `{"ret":1}`, push(logic.PushCommand{Room: "2147483647",
			Body: []byte(body)})},
		{"POST", "/1/push/room?rid=1&ensure=perhaps", body, 200, `{"ret":1}`, push(logic.PushCommand{Room: "1", Body: []byte(body)})},
		{"POST", "/1/push/room?rid=2147483648", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push/room?rid=lobby", body, 200, `{"ret":65535}`, nil},
		{"POST", "/1/push/room", body, 200, `{"ret":65535}`, nil},
		{"GET", "/1/push/room?rid=1", "", 405, "Method Not Allowed\n", nil},

		{"POST", "/1/push/all", body, 200, `{"ret":1}`, push(logic.PushCommand{All: true, Body: []byte(body)})},
		{"GET", "/1/push/all", "", 405, "Method Not Allowed\n", nil},

		{"GET", "/1/count?type=room", "", 200, `{"data":[{"RoomId":-1,"Count":5},{"RoomId":1,"Count":2},{"RoomId":20,"Count":1}],"ret":1}`, nil},
		{"GET", "/1/count?type=server", "", 200, `{"data":[{"Server":1,"Count":3},{"Server":538802085,"Count":7}],"ret":1}`, nil},
		{"GET", "/1/count?type=else", "", 200, `{"ret":1}`, nil},
		{"GET", "/1/count", "", 200, `{"ret":1}`, nil},
		{"POST", "/1/count?type=room", "", 405, "Method Not Allowed\n", nil},
		{"HEAD", "/1/count?type=room", "", 405, "Method Not Allowed\n", nil},

		{"POST", "/1/server/del?server=1", "", 200, `{"ret":1}`, nil},
		{"POST", "/1/server/del?server=x", "", 200, `{"ret":65535}`, nil},
		{"POST", "/1/server/del?server=4294967296", "", 200, `{"ret":65535}`, nil},
		{"POST", "/1/server/del", "", 200, `{"ret":65535}`, nil},
		{"GET", "/1/server/del?server=1", "", 405, "Method Not Allowed\n", nil},

		{"GET", "/1/admin/token/new", "", 405, "Method Not Allowed\n", nil},
		{"GET", "/1/nothing", "", 404, "404 page not found\n", nil},
		{"POST", "/1/", "", 404, "404 page not found\n", nil},
	} {
		t.Run(tt.method+" "+tt.target+" "+tt.send[:min(len(tt.send), 40)], func(t *testing.T) {
			h := newHarness(t, httpapi.Config{}, &fakeService{
				rooms:   map[string]uint32{"1": 2, "20": 1, "live://1": 2, "007": 1, "lobby": 1},
				stats:   logic.Stats{Sessions: 12},
				byComet: map[string]int{"1": 3, "comet-a": 7},
			})
			a := h.do(tt.method, tt.target, tt.send)
			if a.status != tt.status || a.body != tt.want || a.header.Get("Content-Type") != plain {
				t.Errorf("answered %d, %s\n%s\nwant %d\n%s", a.status, a.header.Get("Content-Type"), a.body, tt.status, tt.want)
			}
			got := h.service.lastPush()
			if got != nil && len(got.Body) == 0 {
				got.Body = nil
			}
			if !reflect.DeepEqual(got, tt.push) {
				t.Errorf("pushed %+v, want %+v", got, tt.push)
			}
		})
	}
}

// TestImgoErrors checks how /1 reports the errors of the service.
func TestImgoErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{envelope.Invalid("users[0]", "is bad"), `{"ret":65534}`},
		{envelope.ErrTooLarge, `{"ret":65534}`},
		{envelope.ErrUnavailable, `{"ret":65535}`},
		{envelope.ErrDiskFull, `{"ret":65535}`},
		{errors.New("broken"), `{"ret":65535}`},
	} {
		for target, method := range map[string]string{
			"/1/push?uid=1": "POST", "/1/push/room?rid=1": "POST", "/1/push/all": "POST", "/1/count?type=room": "GET",
			"/1/count?type=server": "GET", "/1/server/del?server=1": "POST", "/1/admin/token/new?uid=1&token=t&expire=1": "POST",
			"/1/msg/get?uid=1&mid=0&token=t": "GET",
		} {
			h := newHarness(t, httpapi.Config{}, &fakeService{err: tt.err})
			want := tt.want
			if want == `{"ret":65534}` && !strings.Contains(target, "token") {
				want = `{"ret":65535}` // as the calls of 2016 without a token did
			}
			if a := h.do(method, target, "x"); a.status != 200 || a.body != want {
				t.Errorf("%s with the error %q answered %d %s, want %s", target, tt.err, a.status, a.body, want)
			}
		}
	}
}

// TestAncestorBug11_NegativeUID checks that uid=-1, which killed the router of 2016, is refused on
// every path that takes a uid. The service is not called.
func TestAncestorBug11_NegativeUID(t *testing.T) {
	for _, uid := range []string{"-1", "-9223372036854775808", "-9223372036854775809", "9223372036854775808", "1e3", "0x10", " 1", "١"} {
		h := newHarness(t, httpapi.Config{}, &fakeService{tokens: map[string]string{"t": uid}})
		escaped := strings.NewReplacer(" ", "%20").Replace(uid)
		for _, ask := range [][3]string{
			{"POST", "/1/push?uid=" + escaped, `{"test":1}`},
			{"POST", "/1/pushs", `{"m":1,"u":[1,` + uid + `]}`},
			{"POST", "/1/admin/token/new", "uid=" + escaped + "&token=t&expire=60"},
			{"POST", "/1/admin/token/new", `{"uid":"` + uid + `","token":"t","expire":60}`},
			{"GET", "/1/msg/get?mid=0&token=t&uid=" + escaped, ""},
		} {
			a := h.do(ask[0], ask[1], ask[2])
			if ask[1] == "/1/pushs" && uid == " 1" {
				continue // JSON allows a space before a number.
			}
			want := `{"ret":65534}`
			if strings.HasPrefix(ask[1], "/1/push") {
				want = `{"ret":65535}`
			}
			if a.status != 200 || a.body != want {
				t.Errorf("%s %s %q answered %d %s", ask[0], ask[1], ask[2], a.status, a.body)
			}
		}
		for _, call := range h.service.recorded() {
			if call != "push" || uid != " 1" {
				t.Errorf("uid %q did %q", uid, call)
			}
		}
	}
}

// TestAncestorBug01_MultiPushStoresOffline checks that /1/pushs keeps messages for users who are
// offline.
func TestAncestorBug01_MultiPushStoresOffline(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, &fakeService{})
	h.do("POST", "/1/pushs", `{"m":{"test":1},"u":[1,2]}`)
	if cmd := h.service.lastPush(); cmd == nil || !cmd.Kept {
		t.Errorf("pushed %+v, want it kept", cmd)
	}
}

// TestAncestorBug12_BroadcastWithoutComets checks that a broadcast without a comet reaches nobody and
// is no error in any of the APIs.
func TestAncestorBug12_BroadcastWithoutComets(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, &fakeService{})
	for target, want := range map[string]string{
		"/1/push/all": `{"ret":1}`, "/1/push/room?rid=1": `{"ret":1}`,
		"/goim/push/all?operation=1000": `{"code":0,"message":""}`,
	} {
		if a := h.do("POST", target, "x"); a.status != 200 || a.body != want {
			t.Errorf("%s answered %d %s", target, a.status, a.body)
		}
	}
	if a := h.do("POST", "/v1/push", `{"all":true,"body":1}`); a.status != 202 || a.body != "{\"sessions\":null}\n" {
		t.Errorf("/v1/push answered %d %s", a.status, a.body)
	}
	if a := h.do("GET", "/goim/nodes/instances", ""); a.status != 200 || a.body != `{"code":0,"message":"","data":null}` {
		t.Errorf("nodes/instances answered %d %s", a.status, a.body)
	}
}

// TestAncestorBug16_BroadcastBodyIsNotJSON checks that any bytes are a valid message and reach the
// service unchanged.
func TestAncestorBug16_BroadcastBodyIsNotJSON(t *testing.T) {
	for _, body := range []string{"hello", "{", "\x00\xff", "<b>&amp;</b>", strings.Repeat("[", 5000)} {
		h := newHarness(t, httpapi.Config{}, &fakeService{})
		for _, target := range []string{"/1/push/all", "/1/push/room?rid=1", "/1/push?uid=1", "/goim/push/all?operation=5",
			"/goim/push/mids?operation=5&mids=1"} {
			if a := h.do("POST", target, body); a.status != 200 || string(h.service.lastPush().Body) != body {
				t.Errorf("%s with %q answered %d %s", target, body, a.status, a.body)
			}
		}
	}
}

func TestImgoServerDel(t *testing.T) {
	comets := map[string]int{"1": 3, "comet-a": 7, "comet-b": 1}
	for server, want := range map[string][]string{
		"1":         {"1"},
		"538802085": {"538802085", "comet-a"}, // as /1/count?type=server shows it
		"5":         {"5"},
	} {
		h := newHarness(t, httpapi.Config{}, &fakeService{byComet: comets})
		if a := h.do("POST", "/1/server/del?server="+server, ""); a.body != `{"ret":1}` {
			t.Errorf("server %s: %s", server, a.body)
		}
		if !slices.Equal(h.service.forgotten, want) {
			t.Errorf("server %s: forgot %q, want %q", server, h.service.forgotten, want)
		}
	}
}

func TestImgoTokenNew(t *testing.T) {
	for _, tt := range []struct {
		name, target, body string
		want               string
		made               *madeToken
	}{
		{"form", "/1/admin/token/new", "uid=10086&token=abc%20d&expire=3600", `{"ret":1}`,
			&madeToken{user: "10086", ttl: time.Hour, token: "abc d"}},
		{"query", "/1/admin/token/new?uid=10086&token=abc&expire=3600", "", `{"ret":1}`,
			&madeToken{user: "10086", ttl: time.Hour, token: "abc"}},
		{"JSON, as documented", "/1/admin/token/new", `{"uid":10086,"token":"JKF67897FDS325sdkfJK","expire":123456}`, `{"ret":1}`,
			&madeToken{user: "10086", ttl: 123456 * time.Second, token: "JKF67897FDS325sdkfJK"}},
		{"JSON with strings", "/1/admin/token/new", ` {"uid":"10086","token":"abc","expire":"60"}`, `{"ret":1}`,
			&madeToken{user: "10086", ttl: time.Minute, token: "abc"}},
		{"for ever", "/1/admin/token/new", "uid=1&token=abc&expire=9223372036854775807", `{"ret":1}`,
			&madeToken{user: "1", ttl: 9e9 * time.Second, token: "abc"}},
		{"no uid", "/1/admin/token/new", "token=abc&expire=3600", `{"ret":65534}`, nil},
		{"uid 0", "/1/admin/token/new", "uid=0&token=abc&expire=3600", `{"ret":65534}`, nil},
		{"no token", "/1/admin/token/new", "uid=1&expire=3600", `{"ret":65534}`, nil},
		{"no expire", "/1/admin/token/new", "uid=1&token=abc", `{"ret":65534}`, nil},
		{"expire 0", "/1/admin/token/new", "uid=1&token=abc&expire=0", `{"ret":65534}`, nil},
		{"expire negative", "/1/admin/token/new", "uid=1&token=abc&expire=-5", `{"ret":65534}`, nil},
		{"expire nonsense", "/1/admin/token/new", `{"uid":1,"token":"abc","expire":{}}`, `{"ret":65534}`, nil},
		{"broken JSON", "/1/admin/token/new", `{"uid":1,`, `{"ret":65534}`, nil},
		{"null uid", "/1/admin/token/new", `{"uid":null,"token":"abc","expire":5}`, `{"ret":65534}`, nil},
		{"nothing", "/1/admin/token/new", "", `{"ret":65534}`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{}, &fakeService{})
			for _, contentType := range []string{"application/x-www-form-urlencoded", "application/json", ""} {
				a := h.do("POST", tt.target, tt.body, "Content-Type: "+contentType)
				if a.status != 200 || a.body != tt.want || a.header.Get("Content-Type") != plain {
					t.Errorf("answered %d %s", a.status, a.body)
				}
				made := h.service.made
				h.service.made = nil
				if tt.made == nil && len(made) > 0 || tt.made != nil && !reflect.DeepEqual(made, []madeToken{*tt.made}) {
					t.Errorf("made %+v, want %+v", made, tt.made)
				}
			}
		})
	}
}

// TestImgoJSONPMayRun checks that browsers may run an answer with a callback as a script, and no other one.
func TestImgoJSONPMayRun(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, &fakeService{tokens: map[string]string{"t": "5"}})
	server := httpapi.NewServer(h.handler, zerolog.Nop())
	for query, want := range map[string]string{"": "nosniff", "&cb=f": "", "&cb=%3Cb%3E": "nosniff"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/1/msg/get?uid=5&mid=0&token=t"+query, nil)
		r.RemoteAddr = "127.0.0.1:1"
		r.Host = "127.0.0.1"
		server.Handler.ServeHTTP(w, r)
		if got := w.Header().Get("X-Content-Type-Options"); got != want || w.Code != http.StatusOK {
			t.Errorf("%q: X-Content-Type-Options is %q, status %d", query, got, w.Code)
		}
	}
}

// TestImgoMsgGetGolden compares the answers of /1/msg/get byte for byte.
func TestImgoMsgGetGolden(t *testing.T) {
	service := &fakeService{
		tokens: map[string]string{"t5": "5", "t6": "6"},
		take: func(user string, after int64, limit int) (*envelope.TakeReply, error) {
			if user != "5" || after != 1400000000000 || limit != 1000 {
				return &envelope.TakeReply{}, nil
			}
			return &envelope.TakeReply{Messages: []*envelope.Kept{
				{Id: 9, Op: 5, Body: []byte(`{"test":1}`), TimeMs: 1400000000001},
				{Id: 11, Op: 5, TimeMs: 1400000000002},
			}}, nil
		},
	}
	const both = `{"data":{"msgs":[{"msg":"eyJ0ZXN0IjoxfQ==","mid":1400000000001,"gid":0},{"msg":"","mid":1400000000002,"gid":0}]},"ret":0}`
	for _, tt := range []struct {
		query, want string
	}{
		{"uid=5&mid=1400000000000&token=t5", both},
		{"uid=5&mid=1400000000000&token=t5&cb=jQuery.cb_1[0]", "jQuery.cb_1[0](" + both + ")"},
		{"uid=5&mid=0&token=t5", `{"ret":0}`},
		{"uid=6&mid=-1&token=t6&cb=f", `f({"ret":0})`},
		{"uid=5&mid=0&token=t6", `{"ret":65533}`},
		{"uid=5&mid=0&token=unknown", `{"ret":65535}`},
		{"uid=5&mid=0&token=unknown&cb=f", `f({"ret":65535})`},
		{"uid=5&mid=0", `{"ret":65534}`},
		{"uid=5&token=t5", `{"ret":65534}`},
		{"mid=0&token=t5", `{"ret":65534}`},
		{"uid=x&mid=0&token=t5", `{"ret":65534}`},
		{"uid=-5&mid=0&token=t5", `{"ret":65534}`},
		{"uid=5&mid=x&token=t5", `{"ret":65534}`},
		{"uid=5&mid=x&token=t5&cb=f", `f({"ret":65534})`},
		{"uid=5&mid=0&token=t5&cb=%3Cscript%3E", `{"ret":65534}`},
		{"uid=5&mid=0&token=t5&cb=" + strings.Repeat("x", 129), `{"ret":65534}`},
	} {
		t.Run(tt.query, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{}, service)
			a := h.do("GET", "/1/msg/get?"+tt.query, "")
			if a.status != 200 || a.body != tt.want || a.header.Get("Content-Type") != plain {
				t.Errorf("answered %d, %s\n%s\nwant\n%s", a.status, a.header.Get("Content-Type"), a.body, tt.want)
			}
		})
	}
	h := newHarness(t, httpapi.Config{}, service)
	if a := h.do("POST", "/1/msg/get?uid=5&mid=0&token=t5", ""); a.status != 405 || a.body != "Method Not Allowed\n" {
		t.Errorf("POST answered %d %s", a.status, a.body)
	}
}
