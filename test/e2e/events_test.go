package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// eventPage is an answer of GET /v1/events.
type eventPage struct {
	Events []struct {
		SpecVersion, ID, Source, Type, Subject, Time string
		Data                                         struct {
			User, ID, Ref, Device, Reason string
			Devices, Without              []string
		}
	}
	Next string
	More bool
}

// events reads events with a query until there are as many as wanted. It returns each as its type and ref, and the
// cursor behind them.
func (n *node) events(t *testing.T, query string, want int) (list []string, next string) {
	t.Helper()
	for len(list) < want {
		var page eventPage
		n.call(t, "GET", "/v1/events?wait=20s&"+query+"&after="+next, "").decode(t, &page)
		if next = page.Next; len(page.Events) == 0 && !page.More {
			t.Fatalf("events %q, want %d", list, want)
		}
		for _, e := range page.Events {
			if e.SpecVersion != "1.0" || e.Source == "" || e.Subject != e.Data.User || e.Time == "" {
				t.Errorf("event %+v", e)
			}
			list = append(list, strings.TrimPrefix(e.Type, "message.")+" "+e.Data.Ref)
		}
	}
	return list, next
}

func (n *node) wantEvents(t *testing.T, query string, want ...string) (next string) {
	t.Helper()
	list, next := n.events(t, query, len(want))
	if strings.Join(list, ", ") != strings.Join(want, ", ") {
		t.Fatalf("events %q, want %q", list, want)
	}
	return next
}

// A caller is told what becomes of its pushes: at once if it waits, and after a restart.
func TestEventsOfPushes(t *testing.T) {
	n := start(t, nil)
	n.call(t, "GET", "/v1/events", "").want(t, 200, `{"events":[],"next":"`, `","more":false}`)
	c := n.tcp(t)
	c.login("v2", "alice", `,"ack":true,"device":"phone"`)

	told := make(chan answer, 1)
	go func() {
		a, err := n.try("GET", "/v1/events?wait=50s&types=message.settled&user=alice", nil)
		if err != nil {
			a.body = err.Error()
		}
		told <- a
	}()
	n.call(t, "POST", "/v1/push", `{"user":"alice","body":0}`).want(t, 202)
	n.call(t, "POST", "/v1/push", `{"user":"alice","body":1,"ref":"one","report":"each"}`).want(t, 202)
	n.call(t, "POST", "/v1/push", `{"users":["alice","bob"],"body":2,"ref":"two","report":"settled"}`).want(t, 202)
	for i := range 3 {
		c.ack(c.expect(5, fmt.Sprint(i)).ID)
	}
	(<-told).want(t, 200, `"type":"message.settled"`, `"ref":"one"`)
	next := n.wantEvents(t, "user=alice", "delivered one", "settled one", "settled two")

	// Bob has no device. His message waits, and says what is known.
	var list struct{ Messages []struct{ ID string } }
	n.call(t, "GET", "/v1/users/bob/messages", "").decode(t, &list)
	if len(list.Messages) != 1 {
		t.Fatalf("messages of bob: %+v", list)
	}
	id := list.Messages[0].ID
	n.call(t, "GET", "/v1/users/bob/messages/"+id, "").want(t, 200, `"id":"`+id+`","ref":"two","op":5,"size":1,`,
		`"body":2,"waiting":[],"unclaimed":true,"report":"settled"`)
	n.call(t, "GET", "/v1/users/bob/messages/123", "").want(t, 404, "not_found")

	n = n.restart(t)
	n.call(t, "DELETE", "/v1/users/bob/messages", "").want(t, 200)
	n.wantEvents(t, "user=bob", "dropped two")
	n.wantEvents(t, "user=alice", "delivered one", "settled one", "settled two")
	n.call(t, "GET", "/v1/events?user=alice&after="+next, "").want(t, 200, `{"events":[],`)
	// A cursor knows every user's place.
	n.call(t, "GET", "/v1/events?types=message.dropped,message.expired&after="+next, "").want(t, 200,
		`"type":"message.dropped"`, `"reason":"removed"`)
	n.call(t, "GET", "/v1/events?after=now", "").want(t, 200, `{"events":[],`)
}

// A deadline that passes is told of once, and the end of the ttl.
func TestDeadlineOfAPush(t *testing.T) {
	n := start(t, nil)
	phone, laptop := n.tcp(t), n.tcp(t)
	phone.login("v2", "alice", `,"ack":true,"device":"phone"`)
	laptop.login("v2", "alice", `,"ack":true,"device":"laptop"`)
	push := func(ref, more string) {
		t.Helper()
		n.call(t, "POST", "/v1/push", fmt.Sprintf(`{"user":"alice","body":1,"ref":%q,"deadline":"300ms"%s}`, ref, more)).want(t, 202)
	}
	push("on-phone", ``)
	push("any", `,"deadline_if":"any","report":"settled"`)
	for range 2 {
		phone.ack(phone.expect(5, "1").ID)
	}
	push("nobody", `,"ttl":"2s"`)
	next := n.wantEvents(t, "types=message.undelivered", "undelivered any", "undelivered nobody")
	var list struct {
		Messages []struct {
			ID, Ref string
			Missed  bool
		}
	}
	n.call(t, "GET", "/v1/users/alice/messages", "").decode(t, &list)
	for _, m := range list.Messages {
		a := n.call(t, "GET", "/v1/users/alice/messages/"+m.ID, "")
		switch m.Ref {
		case "any":
			a.want(t, 200, `"missed":true`, `"waiting":["laptop"]`,
				`{"device":"laptop","state":"waiting"},{"device":"phone","state":"delivered","time_ms":`)
		case "on-phone":
			a.want(t, 200, `"deadline_if":"none_delivered"`, `"waiting":["laptop"]`)
		}
	}
	list2, _ := n.events(t, "types=message.expired&after="+url.QueryEscape(next), 1)
	if list2[0] != "expired nobody" {
		t.Errorf("events %q", list2)
	}
}

// What is wrong with a report is named, before anything happens.
func TestWrongReports(t *testing.T) {
	n := start(t, nil)
	for _, c := range []struct{ push, field, says string }{
		{`"ref":"` + strings.Repeat("x", 129) + `"`, "ref", "129 bytes"},
		{`"ref":""`, "ref", "empty"},
		{`"report":"all"`, "report", "none, settled or each"},
		{`"report":7`, "report", "string"},
		{`"deadline":"-1s"`, "deadline", ""},
		{`"deadline":0`, "deadline", "at least a millisecond"},
		{`"deadline":"2h","ttl":"1h"`, "deadline", "longer than the ttl"},
		{`"deadline":"200h"`, "deadline", "longer than the ttl"},
		{`"deadline":"1s","deadline_if":"all"`, "deadline_if", "any or none_delivered"},
		{`"deadline_if":"any"`, "deadline_if", "deadline"},
		{`"kept":false,"report":"each"`, "report", "kept"},
		{`"kept":false,"ref":"x"`, "ref", "kept"},
		{`"kept":false,"deadline":"1s"`, "deadline", "kept"},
		{`"reports":"each"`, "reports", "not a field"},
	} {
		a := n.call(t, "POST", "/v1/push", `{"user":"alice","body":1,`+c.push+`}`)
		a.want(t, 400, `"field":"`+c.field+`"`)
		if !strings.Contains(a.body, c.says) {
			t.Errorf("%s: %s", c.push, a.body)
		}
	}
	for _, query := range []string{
		"after=nonsense", "after=AQEAAICAgICAgIACAAA", "after=AQkA", "after=AQ", "types=message.lost", "types=x,message.*", "limit=0",
		"wait=1h", "wait=soon", "wait=5", "wait=51s", "types=", "types=message.d*", "user=", "since=1",
	} {
		n.call(t, "GET", "/v1/events?"+query, "").want(t, 400, `"field":"`+strings.Split(query, "=")[0]+`"`)
	}
	for _, path := range []string{
		"messages?cursor=x", "messages?limit=0", "messages?bodies=1", "messages/x", "messages?cursor=", "messages?after=1",
	} {
		n.call(t, "GET", "/v1/users/alice/"+path, "").want(t, 400)
	}
	n.call(t, "GET", "/v1/users/alice/messages/0", "").want(t, 404)
	var user struct{ Pending int }
	if err := json.Unmarshal([]byte(n.call(t, "GET", "/v1/users/alice", "").body), &user); err != nil || user.Pending != 0 {
		t.Errorf("user %+v, %v", user, err)
	}
}
