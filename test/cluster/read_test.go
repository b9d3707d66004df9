package cluster_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/config"
)

// What is read at one comet is dismissed at another one: the log carries it.
func TestReadIsDismissedAtAnotherComet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	comets := w.of(config.RoleComet)
	if len(comets) < 2 {
		t.Fatalf("there are %d comets", len(comets))
	}
	type reader struct {
		*imgoclient.Client
		got       chan uint64
		dismissed chan imgoclient.Dismiss
	}
	connect := func(device string, comet *node) *reader {
		r := &reader{got: make(chan uint64, 10), dismissed: make(chan imgoclient.Dismiss, 10)}
		var err error
		r.Client, err = imgoclient.New(imgoclient.Config{
			Address: comet.ClientAddr("tcp").String(), Token: "ann", Device: device,
			OnMessage: func(_ context.Context, m imgoclient.Message) error {
				r.got <- m.ID
				return nil
			},
			OnDismiss: func(d imgoclient.Dismiss) { r.dismissed <- d },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s ended with %v", device, err)
			}
		})
		eventually(t, device+" is connected", func() bool {
			var user struct{ Devices []struct{ Device string } }
			status, _ := w.api("GET", "/v1/users/ann", "", &user)
			return status == 200 && slices.ContainsFunc(user.Devices, func(d struct{ Device string }) bool { return d.Device == device })
		})
		return r
	}
	phone, laptop := connect("phone", comets[0]), connect("laptop", comets[1])
	var answer json.RawMessage
	eventually(t, "the push", func() bool {
		status, _ := w.api("POST", "/v1/push", `{"user":"ann","body":1}`, &answer)
		return status == 202
	})
	var got [2]uint64
	for i, r := range []*reader{phone, laptop} {
		select {
		case got[i] = <-r.got:
		case <-time.After(waitLimit):
			t.Fatalf("no message came: %s", answer)
		}
	}
	id := got[0]
	if got[1] != id {
		t.Fatalf("the devices have %v: %s", got, answer)
	}
	// told waits until a reader is told of messages; a call that was tried again is told of again.
	told := func(r *reader, upTo uint64, ids ...uint64) {
		t.Helper()
		limit := time.After(waitLimit)
		for {
			select {
			case d := <-r.dismissed:
				if d.UpTo == upTo && slices.Equal(d.IDs, ids) {
					return
				}
			case <-limit:
				t.Fatalf("not told of %v, up to %d", ids, upTo)
			}
		}
	}
	// Until everybody knows everybody, a call may be refused.
	eventually(t, "the phone reads", func() bool { return phone.Read(context.Background(), []uint64{id}, 0) == nil })
	told(laptop, 0, id)
	eventually(t, "a caller reads", func() bool {
		status, _ := w.api("POST", "/v1/users/ann/read", `{"up_to":"`+strconv.FormatUint(id, 10)+`"}`, nil)
		return status == 200
	})
	for _, r := range []*reader{phone, laptop} {
		told(r, id)
	}
}
