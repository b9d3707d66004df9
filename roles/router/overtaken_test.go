package router_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// newOvertaken is a router of a cluster that knows a user with a device, a room and a message.
func newOvertaken(t *testing.T) *world {
	w := newWorld(t, func(c *router.Config) { c.Retention = 8 * 24 * time.Hour })
	w.member("u", "secret", true)
	w.attach(session("c", 1, "u", "stolen"))
	w.applied("u", w.push("u", "old"))
	return w
}

// erased appends what another owner does: it erases the user. Then retention takes all up to that.
func (w *world) erased() {
	w.append("u", &envelope.Record{Removal: &envelope.Removal{User: "u", All: true}})
	_, begin := envelope.SplitID(w.append("u", &envelope.Record{}))
	w.kept.trim(envelope.Partition("u", 2), begin)
}

// isErased reports whether nothing is known of the user.
func (w *world) isErased() bool {
	ctx := context.Background()
	m, err := w.r.Memberships(ctx, &envelope.MembershipsRequest{User: "u"})
	if err != nil {
		return false
	}
	u, err := w.r.User(ctx, &envelope.UserRequest{User: "u"})
	return err == nil && len(m.Memberships.GetRooms()) == 0 && len(u.Devices) == 0
}

// A router that was off for longer than the log keeps its records does not bring back what was taken away meanwhile.
func TestStateFromBeforeTheLogIsNotResumed(t *testing.T) {
	w := newOvertaken(t)
	w.stop()
	w.erased()
	// What an owner has repeated is known.
	since := envelope.ID(1, 0)
	w.append("v", &envelope.Record{Device: &envelope.Device{User: "v", Device: "phone", SeenMs: w.clock.now().UnixMilli(), Since: since}})
	waits := w.push("v", "new")
	w.start()
	w.applied("v", waits)
	if !w.isErased() {
		t.Error("an erased user is back")
	}
	if got := w.pendingIDs("v", "phone"); !slices.Equal(got, []uint64{waits}) {
		t.Errorf("%v wait, want %d", got, waits)
	}
	if n := w.counter("imgo_router_skipped_records_total"); n != 1 || !slices.Equal(w.happened(), []string{"records_skipped "}) {
		t.Errorf("%v records were skipped, events %v; want the removal", n, w.happened())
	}
	w.restart()
	if n := w.counter("imgo_router_skipped_records_total"); n != 0 || !w.isErased() {
		t.Errorf("after another start %v records were skipped", n)
	}
}

// A deletion of stored mailboxes that was interrupted is completed: the log does not cover all of them.
func TestInterruptedDeletionIsCompleted(t *testing.T) {
	w := newOvertaken(t)
	w.stop()
	w.erased()
	db, err := store.Open(store.Options{Dir: w.dir})
	if err != nil {
		t.Fatal(err)
	}
	boxes, p := store.NewMailboxes(db), envelope.Partition("u", 2)
	if err := boxes.DropPartition(&endingContext{t.Context(), 2}, p); err == nil {
		t.Error("the deletion was not interrupted")
	}
	if _, _, ok, err := boxes.Position(p); ok || err != nil {
		t.Errorf("there is a position: %v, %v", ok, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	w.start()
	if !w.isErased() {
		t.Error("an erased user is back")
	}
}

// endingContext is cancelled once it was asked a number of times.
type endingContext struct {
	context.Context
	left int
}

func (c *endingContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// A router that retention overtakes while it runs, as one that was suspended, begins anew.
func TestRetentionOvertakesARouterThatRuns(t *testing.T) {
	w := newOvertaken(t)
	p := envelope.Partition("u", 2)
	for range 2 {
		w.kept.stick(p, w.kept.End(p))
		w.erased()
		w.kept.stick(p, 0)
		eventually(t, "the router has forgotten the user", w.isErased)
		eventually(t, "the router is ready", func() bool { return w.r.Ready() == nil })
		w.attach(session("c", 1, "u", "new"))
		id := w.push("u", "new")
		w.applied("u", id)
		if got := w.pendingIDs("u", "new"); !slices.Equal(got, []uint64{id}) {
			t.Errorf("%v wait, want %d", got, id)
		}
	}
	if n := w.counter("imgo_router_skipped_records_total"); n == 0 {
		t.Error("no records were skipped")
	}
}
