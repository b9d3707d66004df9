package logic_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic"
)

// refusingGate refuses records of a version and above.
type refusingVersions uint32

func (g refusingVersions) Require(_ context.Context, version uint32) error {
	if version >= uint32(g) {
		return envelope.ErrUpgradeUnfinished
	}
	return nil
}

// connectV2 gives a user a session of version 2.
func (w *world) connectV2(user, device, comet string, session uint64) *envelope.Address {
	w.connect(user, device, comet, session)
	r := w.owner(user)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[user][len(r.sessions[user])-1]
	s.Generation = envelope.ClientProtocolV2
	return s.Address
}

// dismissals lists what sessions are told, as comet/session ids up to.
func (w *world) dismissals() (list []string) {
	for _, e := range w.envelopes() {
		for _, a := range e.GetDismiss().GetTo() {
			list = append(list, fmt.Sprintf("%s/%d %v %d", a.Comet, a.Session, e.Dismiss.Ids, e.Dismiss.UpTo))
		}
	}
	return list
}

func TestRead(t *testing.T) {
	w := newWorld(t)
	from := w.connectV2("ann", "phone", "c1", 1)
	w.connectV2("ann", "laptop", "c2", 2)
	w.connectV2("ann", "phone", "c1", 3)
	w.connect("ann", "", "c1", 4) // of an old client
	w.connectV2("bob", "phone", "c1", 5)
	// No id above that of the record, the second one of its partition, is told.
	second := envelope.ID(generation, 1)
	for i, c := range []struct {
		from     *envelope.Address
		read     *envelope.Read
		sessions uint32
		told     []string
	}{
		{from, &envelope.Read{User: "ann", Device: "phone", Ids: []uint64{7, 8}}, 2, []string{"c2/2 [7 8] 0", "c1/3 [7 8] 0"}},
		{from, &envelope.Read{User: "ann", Device: "phone", UpTo: 1<<64 - 1}, 2,
			[]string{fmt.Sprint("c2/2 [] ", second), fmt.Sprint("c1/3 [] ", second)}},
		{nil, &envelope.Read{User: "ann", UpTo: 1}, 3, []string{"c1/1 [] 1", "c1/3 [] 1", "c2/2 [] 1"}},
		{nil, &envelope.Read{User: "bob", Device: "tablet", Ids: []uint64{9}}, 1, []string{"c1/5 [9] 0"}},
		{nil, &envelope.Read{User: "nobody", Ids: []uint64{9}}, 0, nil},
	} {
		before := len(w.dismissals())
		reply, err := w.Read(t.Context(), &envelope.ReadRequest{Read: c.read, From: c.from})
		if err != nil || reply.Sessions != c.sessions {
			t.Errorf("call %d: %v, %v; want %d sessions", i, reply, err, c.sessions)
		}
		records := w.records()
		want := &envelope.Read{User: c.read.User, Device: c.read.Device, Ids: c.read.Ids, UpTo: c.read.UpTo, ByCaller: c.from == nil}
		if diff := cmp.Diff(want, records[len(records)-1].Read, protocmp.Transform()); len(records) != i+1 || diff != "" {
			t.Errorf("call %d: %d records, the last one: %s", i, len(records), diff)
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(c.told)), slices.Sorted(slices.Values(w.dismissals()[before:]))); diff != "" {
			t.Errorf("call %d: told are %s", i, diff)
		}
	}
}

func TestReadIsChecked(t *testing.T) {
	for _, c := range []struct {
		name  string
		read  *envelope.Read
		field string
	}{
		{"nothing at all", nil, "user"},
		{"no user", &envelope.Read{UpTo: 1}, "user"},
		{"a bad user", &envelope.Read{User: "a\x00", UpTo: 1}, "user"},
		{"a bad device", &envelope.Read{User: "ann", Device: strings.Repeat("x", 129), UpTo: 1}, "device"},
		{"no message", &envelope.Read{User: "ann"}, "ids"},
		{"too many messages", &envelope.Read{User: "ann", UpTo: 1, Ids: make([]uint64, protocol.MaxReadIDs+1)}, "ids"},
	} {
		w := newWorld(t)
		_, err := w.Read(t.Context(), &envelope.ReadRequest{Read: c.read})
		var e *envelope.Error
		if !errors.As(err, &e) || e.Code != envelope.CodeInvalid || e.Field != c.field {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(w.records())+len(w.envelopes()) > 0 {
			t.Errorf("%s: it left %v, %v", c.name, w.records(), w.envelopes())
		}
	}
}

// Nothing is appended while a node does not know such records, and no session is told of what is not durable.
func TestReadThatFails(t *testing.T) {
	w := newWorld(t)
	w.connectV2("ann", "phone", "c1", 1)
	deps := w.deps()
	deps.Records = refusingVersions(envelope.RecordVersionClients)
	l, err := logic.New(logic.DefaultConfig(), deps)
	if err != nil {
		t.Fatal(err)
	}
	ask := &envelope.ReadRequest{Read: &envelope.Read{User: "ann", UpTo: 1}}
	if _, err := l.Read(t.Context(), ask); !errors.Is(err, envelope.ErrUpgradeUnfinished) {
		t.Errorf("with an older node: %v", err)
	}
	w.kept.fail = func(bool) error { return envelope.ErrUnavailable }
	if _, err := w.Read(t.Context(), ask); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("without a log: %v", err)
	}
	w.kept.fail = func(essential bool) error {
		if essential {
			return nil
		}
		return envelope.ErrDiskFull
	}
	if len(w.records())+len(w.envelopes()) > 0 {
		t.Errorf("left are %v, %v", w.records(), w.envelopes())
	}
	// What is durable is answered so, though the other sessions cannot be told.
	w.live.fail = func(bool) error { return envelope.ErrUnavailable }
	if _, err := w.Read(t.Context(), ask); err != nil {
		t.Errorf("without the live log: %v", err)
	}
	w.owner("ann").lookup = func(context.Context, *envelope.LookupRequest) (*envelope.LookupReply, error) {
		return nil, envelope.ErrNotReady
	}
	if reply, err := w.Read(t.Context(), ask); err != nil || reply.Sessions != 0 {
		t.Errorf("without an owner: %v, %v", reply, err)
	}
	if n := len(w.records()); n != 2 {
		t.Errorf("%d records", n)
	}
}
