package router_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// BenchmarkRebuild measures how long a router with an empty disk takes to apply 1,000,000
// pushes of 100 bytes. There are 100,000 users with a device each. A share of the devices
// has acknowledged what it got.
func BenchmarkRebuild(b *testing.B) {
	const users, pushes, parts = 100_000, 1_000_000, 8
	for _, acked := range []int{0, 90} {
		kept := newMemLog(parts)
		kept.chunk = 5000
		now := time.Now()
		add := func(p int32, rec *envelope.Record) uint64 {
			rec.Id, rec.TimeMs = envelope.NewRecordID(), now.UnixMilli()
			v, err := rec.MarshalVT()
			if err != nil {
				b.Fatal(err)
			}
			off := int64(len(kept.parts[p]))
			kept.parts[p] = append(kept.parts[p], envelope.Entry{Partition: p, Offset: off, Value: v})
			return envelope.ID(1, off)
		}
		names := make([]string, users)
		for i := range names {
			names[i] = fmt.Sprintf("user-%d", i)
			device := &envelope.Device{User: names[i], Device: "phone", SeenMs: now.UnixMilli()}
			add(envelope.Partition(names[i], parts), &envelope.Record{Device: device})
		}
		body := make([]byte, 100)
		for i := range pushes {
			user := names[(i*7919)%users]
			p := envelope.Partition(user, parts)
			id := add(p, &envelope.Record{Push: &envelope.Push{
				Users: []string{user}, Op: 5, Body: body, ExpiresMs: now.Add(24 * time.Hour).UnixMilli(),
			}})
			if i%100 < acked {
				add(p, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{{User: user, Device: "phone", Ids: []uint64{id}}}}})
			}
		}
		b.Run(fmt.Sprintf("acked=%d%%", acked), func(b *testing.B) {
			for b.Loop() {
				db, err := store.Open(store.Options{Dir: b.TempDir(), Log: zerolog.Nop()})
				if err != nil {
					b.Fatal(err)
				}
				r, err := router.New(router.DefaultConfig(), router.Deps{
					Kept: kept, Live: newMemLog(1), Store: store.NewMailboxes(db), Log: zerolog.Nop(),
				})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				begin := time.Now()
				go func() { done <- r.Run(ctx) }()
				for r.Ready() != nil {
					time.Sleep(time.Millisecond)
				}
				b.ReportMetric(time.Since(begin).Seconds(), "s/ready")
				cancel()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(begin).Seconds(), "s/flushed")
				if err := db.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
