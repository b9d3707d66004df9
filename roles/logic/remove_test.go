package logic_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"imgo/envelope"
	"imgo/roles/logic"
)

func (f *fakeTokens) List(_ context.Context, user string) (list []envelope.TokenInfo, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tokens {
		if t.User == user {
			list = append(list, envelope.TokenInfo{ExpiresMS: t.ExpiresMS})
		}
	}
	return list, nil
}

func TestRemove(t *testing.T) {
	const retention = time.Hour
	w := newWorld(t, func(c *logic.Config, _ *world) { c.Retention = retention })
	w.connect("ann", "phone", "c1", 1)
	w.connect("ann", "", "c2", 2)
	if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann"}); err != nil {
		t.Fatal(err)
	}
	if list, err := w.UserTokens(t.Context(), "ann"); err != nil || len(list) != 1 {
		t.Errorf("tokens %v, %v", list, err)
	}
	until := w.clock.Now().Add(retention).UnixMilli()
	kicked := func() (to []string) {
		for _, e := range w.envelopes() {
			for _, a := range e.GetKick().GetTo() {
				to = append(to, fmt.Sprint(a.Comet, " ", e.Kick.Code))
			}
		}
		return to
	}
	for _, c := range []struct {
		name    string
		do      func() (logic.Removed, error)
		want    logic.Removed
		removal *envelope.Removal
		kicks   int
	}{
		{"forget", func() (logic.Removed, error) { return w.ForgetDevice(t.Context(), "ann", "phone") },
			logic.Removed{Messages: 3, Devices: 1, Sessions: 1, LogUntilMS: until}, &envelope.Removal{User: "ann", Devices: []string{"phone"}}, 1},
		{"forget the device without a name", func() (logic.Removed, error) { return w.ForgetDevice(t.Context(), "ann", "") },
			logic.Removed{Messages: 3, Devices: 1, Sessions: 1, LogUntilMS: until}, &envelope.Removal{User: "ann", Devices: []string{""}}, 2},
		{"purge", func() (logic.Removed, error) { return w.Purge(t.Context(), "ann") },
			logic.Removed{Messages: 3, LogUntilMS: until}, &envelope.Removal{User: "ann", Messages: true}, 2},
		{"erase", func() (logic.Removed, error) { return w.Erase(t.Context(), "ann") },
			logic.Removed{Messages: 3, Tokens: 1, Sessions: 2, LogUntilMS: until}, &envelope.Removal{User: "ann", All: true}, 4},
	} {
		got, err := c.do()
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		owner := w.owner("ann")
		if diff := cmp.Diff(c.removal, owner.removed[len(owner.removed)-1], protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if n := len(kicked()); n != c.kicks {
			t.Errorf("%s: kicked %v", c.name, kicked())
		}
	}
	for field1, do := range map[string]func() (logic.Removed, error){
		"user":   func() (logic.Removed, error) { return w.Erase(t.Context(), "") },
		"device": func() (logic.Removed, error) { return w.ForgetDevice(t.Context(), "ann", "\x00") },
	} {
		if _, err := do(); !errors.Is(err, envelope.ErrInvalid) || field(err) != field1 {
			t.Errorf("%s: %v", field1, err)
		}
	}
}
