package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

type batchReply struct {
	Results []struct {
		Status   int
		ID       string
		User     string
		Sessions *int
		Results  []struct{ User string }
		Error    *struct{ Code, Field, Message string }
	}
}

func (a answer) batch(t *testing.T) batchReply {
	t.Helper()
	var reply batchReply
	if err := json.Unmarshal([]byte(a.body), &reply); err != nil || a.status != 200 {
		t.Fatalf("answered %d: %s", a.status, a.body)
	}
	return reply
}

// TestBatchResults checks that each push of a batch gets the same answer as a single push.
func TestBatchResults(t *testing.T) {
	service := &fakeService{push: func(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
		switch {
		case slices.Contains(cmd.Users, "full"):
			return nil, envelope.ErrDiskFull
		case slices.Contains(cmd.Users, "odd"):
			panic("an odd user")
		}
		result := &logic.PushResult{Sessions: 1}
		for _, user := range cmd.Users {
			result.Users = append(result.Users, logic.UserResult{User: user, ID: 5, Sessions: 1})
		}
		return result, nil
	}}
	pushes := `[{"user":"a","body":1}, {"user":"b","boddy":1}, {"users":["c","d"],"body":1}, {"user":"full","body":1}, 17,
		{"room":"r","body":1}, {"user":"e","body":{"x":[1,2]}} , {"user":"odd","body":1}]`
	h := newHarness(t, httpapi.Config{}, service)
	reply := h.do("POST", "/v1/push/batch", `{"pushes":`+pushes+`}`).batch(t)
	var got []string
	for _, r := range reply.Results {
		line := fmt.Sprint(r.Status, " ", r.ID, " ", r.User, " ", len(r.Results))
		if r.Error != nil {
			line += " " + r.Error.Code + " " + r.Error.Field
		}
		got = append(got, line)
	}
	want := []string{"202 5 a 0", "400   0 invalid boddy", "202   2", "507   0 disk_full ", "400   0 invalid ", "202   0",
		"202 5 e 0", "500   0 internal "}
	if !slices.Equal(got, want) {
		t.Errorf("answered\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(h.logged.String(), "an odd user") {
		t.Error("the panic is not in the log")
	}
}

func TestBatchBadInput(t *testing.T) {
	for _, tt := range []struct {
		name, body, field, message string
		headers                    []string
	}{
		{"nothing", "", "", "no body", nil},
		{"empty array", `{"pushes":[]}`, "pushes", "missing or empty", nil},
		{"array without the object", `[{"user":"a","body":1}]`, "", "must be a JSON object", nil},
		{"empty object", "{}", "pushes", "missing or empty", nil},
		{"unknown field", `{"push":[]}`, "push", "not a field", nil},
		{"string", `"x"`, "", "must be a JSON object", nil},
		{"broken in the middle", `{"pushes":[{"user":"a","body":1},{"user":]}`, "pushes[1]", "not valid JSON", nil},
		{"more after it", `{"pushes":[{"user":"a","body":1}]} 1`, "", "more after", nil},
		{"too many", `{"pushes":[1,2,3,4]}`, "pushes", "more than 3", nil},
		{"deep", `{"pushes":[1 , ` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `]}`, "pushes[1]", "nested more than", nil},
		{"header", `{"pushes":[{"user":"a","body":1}]}`, "Idempotency-Key", "not a header for a batch", []string{"Idempotency-Key: x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{MaxBatch: 3}, nil)
			a := h.do("POST", "/v1/push/batch", tt.body, tt.headers...)
			_, field, message := a.problem(t)
			if a.status != 400 || field != tt.field || !strings.Contains(message, tt.message) {
				t.Errorf("answered %d: %s", a.status, a.body)
			}
			if calls := h.service.recorded(); len(calls) > 0 {
				t.Errorf("a refused batch has done %q", calls)
			}
		})
	}
}

// TestBatchKeepsOrder checks that pushes to the same user, room or session run one after another and
// in order. A user may be named alone or among others. Other pushes run in parallel, up to the bound.
func TestBatchKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 8
		var mu sync.Mutex
		running, most := 0, 0
		busy, order := map[string]bool{}, map[string][]string{}
		service := &fakeService{push: func(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
			targets := slices.Concat(cmd.Users, cmd.Keys)
			if cmd.Room != "" {
				targets = append(targets, "room "+cmd.Room)
			}
			if cmd.All {
				targets = append(targets, "everyone")
			}
			mu.Lock()
			running++
			most = max(most, running)
			for _, target := range targets {
				if busy[target] {
					t.Errorf("two pushes of %s at once", target)
				}
				busy[target] = true
				order[target] = append(order[target], string(cmd.Body))
			}
			mu.Unlock()
			time.Sleep(time.Duration(1+len(cmd.Body)%3) * time.Millisecond)
			mu.Lock()
			running--
			for _, target := range targets {
				busy[target] = false
			}
			mu.Unlock()
			return &logic.PushResult{}, nil
		}}
		var pushes []string
		want := map[string][]string{}
		for i := range 300 {
			n := fmt.Sprint(i * i * i)
			switch one, two := fmt.Sprint("u", i%7), fmt.Sprint("u", i%5); {
			case i%10 == 0 && one != two:
				pushes = append(pushes, fmt.Sprintf(`{"users":[%q,%q],"body":%s}`, one, two, n))
				want[one], want[two] = append(want[one], n), append(want[two], n)
			case i%10 == 1:
				pushes = append(pushes, fmt.Sprintf(`{"room":%q,"body":%s}`, one, n))
				want["room "+one] = append(want["room "+one], n)
			case i%10 == 2:
				pushes = append(pushes, fmt.Sprintf(`{"all":true,"body":%s}`, n))
				want["everyone"] = append(want["everyone"], n)
			case i%10 == 3:
				pushes = append(pushes, fmt.Sprintf(`{"keys":["k"],"body":%s}`, n))
				want["k"] = append(want["k"], n)
			default:
				pushes = append(pushes, fmt.Sprintf(`{"user":%q,"body":%s}`, one, n))
				want[one] = append(want[one], n)
			}
		}
		h := newHarness(t, httpapi.Config{Concurrency: bound}, service)
		reply := h.doUnchecked("POST", "/v1/push/batch", `{"pushes":[`+strings.Join(pushes, ",")+`]}`).batch(t)
		if len(reply.Results) != 300 {
			t.Errorf("%d results", len(reply.Results))
		}
		for target, got := range order {
			if !slices.Equal(got, want[target]) {
				t.Errorf("%s got %v, want %v", target, got, want[target])
			}
		}
		if most > bound || most < 2 {
			t.Errorf("%d pushes at once, the bound is %d", most, bound)
		}
	})
}

// TestBatchEndsInTime checks that a batch is answered although the service hangs. The items that did
// not start get an error.
func TestBatchEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := &fakeService{push: func(ctx context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
			if cmd.Users[0] == "slow" {
				<-ctx.Done()
				return nil, fmt.Errorf("append to the log: %w", ctx.Err())
			}
			return &logic.PushResult{}, nil
		}}
		h := newHarness(t, httpapi.Config{Timeout: time.Second, Concurrency: 2}, service)
		start := time.Now()
		reply := h.doUnchecked("POST", "/v1/push/batch",
			`{"pushes":[{"user":"a","body":1},{"user":"slow","body":1},{"user":"slow","body":2},{"user":"b","body":1}]}`).batch(t)
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s", took)
		}
		for i, want := range []int{202, 503, 503, 202} {
			if reply.Results[i].Status != want {
				t.Errorf("result %d has status %d, want %d", i, reply.Results[i].Status, want)
			}
		}
	})
}

// TestBatchNamesABoundedNumberOfUsers checks that a batch of large pushes is refused before any of it is
// done: together they would take a hundred times the memory of their bytes.
func TestBatchNamesABoundedNumberOfUsers(t *testing.T) {
	for _, target := range []string{`"users":`, `"keys":`, `"user":"u","keys":`} {
		h := newHarness(t, httpapi.Config{MaxUsers: 1000}, nil)
		push := `{` + target + `["1"` + strings.Repeat(`,"1"`, 299) + `],"body":1}`
		batch := func(n int) string { return `{"pushes":[` + push + strings.Repeat(","+push, n-1) + `]}` }
		a := h.do("POST", "/v1/push/batch", batch(4))
		if code, field, message := a.problem(t); a.status != 413 || code != "too_large" || field != "pushes" || !strings.Contains(message,
			"1000") {
			t.Errorf("%s was answered %d: %s", target, a.status, a.body)
		}
		if done := h.service.recorded(); len(done) > 0 {
			t.Errorf("a refused batch did %q", done)
		}
		if a := h.do("POST", "/v1/push/batch", batch(3)); a.status != 200 || len(h.service.recorded()) != 3 {
			t.Errorf("%s was answered %d: %.300s", target, a.status, a.body)
		}
	}
}
