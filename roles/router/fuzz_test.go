package router_test

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// FuzzLogRecords applies whatever bytes a log may hold: nothing may crash the
// partition or stop it, and what comes after is applied as ever.
func FuzzLogRecords(f *testing.F) {
	add := func(r *envelope.Record) {
		v, err := r.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(v)
	}
	id := envelope.NewRecordID()
	far := time.Now().Add(time.Hour).UnixMilli()
	add(&envelope.Record{Id: id, Push: &envelope.Push{
		Users: []string{"u", ""}, Op: -5, Body: []byte("x"), ExpiresMs: far, IdempotencyKey: "k"}})
	add(&envelope.Record{Id: id[:3], Acks: &envelope.Acks{Acks: []*envelope.Ack{
		{User: "u", Device: "d", Ids: []uint64{0, 1 << 63, 1<<64 - 1}}}}})
	add(&envelope.Record{Device: &envelope.Device{User: "u\x00", Device: "d", SeenMs: -1}})
	add(&envelope.Record{Claim: &envelope.Claim{Key: ""}})
	add(&envelope.Record{Membership: &envelope.Membership{User: "u", Room: "r", Member: true}})
	add(&envelope.Record{Membership: &envelope.Membership{User: "u\x00", Room: "\xff"}})
	add(&envelope.Record{UserRooms: &envelope.UserRooms{User: "u", Rooms: &envelope.Memberships{At: 1<<64 - 1, Rooms: []string{"", "\x00"}}}})
	f.Add([]byte{})
	f.Add([]byte{0x52, 0xff, 0xff, 0xff, 0xff, 0x0f})

	db, err := store.Open(store.Options{Dir: f.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	kept := newMemLog(1)
	cfg := router.DefaultConfig()
	cfg.MailboxLength = 10
	r, err := router.New(cfg, router.Deps{Kept: kept, Live: newMemLog(1), Store: store.NewMailboxes(db), Log: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
		if err := db.Close(); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, value []byte) {
		off, err := kept.Append(ctx, 0, value)
		if err != nil {
			t.Fatal(err)
		}
		wait, cancel := context.WithTimeout(ctx, waitLimit)
		defer cancel()
		_, err = r.Resolve(wait, &envelope.ResolveRequest{Items: []*envelope.ResolveItem{{Id: envelope.ID(1, off), Users: []string{"u"}}}})
		if err != nil {
			t.Fatalf("the partition does not go on: %v", err)
		}
		if _, err := r.User(wait, &envelope.UserRequest{User: "u"}); err != nil {
			t.Fatal(err)
		}
	})
}
