package logic_test

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"imgo/envelope"
	"imgo/roles/logic"
)

// The record that opens a room goes by the partition of the room's messages. The
// record that opens all rooms goes by every partition.
func TestRoomOpened(t *testing.T) {
	w := newWorld(t)
	opened := &envelope.RoomOpened{Comet: "c1", Room: "lobby", Seq: 7, Incarnation: 3}
	if err := w.RoomOpened(t.Context(), opened); err != nil {
		t.Fatal(err)
	}
	w.push(logic.PushCommand{Room: "lobby", Body: []byte("m")})
	got, entries := w.envelopes(), w.live.all()
	if len(got) != 2 || !proto.Equal(got[0].Opened, opened) || got[0].TimeMs == 0 || entries[0].Partition != entries[1].Partition {
		t.Fatalf("published: %v in %v", got, entries)
	}

	all := &envelope.RoomOpened{Comet: "c1", Seq: 8, Incarnation: 3}
	if err := w.RoomOpened(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	partitions := map[int32]bool{}
	for i, e := range w.live.all()[2:] {
		partitions[e.Partition] = true
		if !proto.Equal(w.envelopes()[2+i].Opened, all) {
			t.Errorf("published: %v", w.envelopes()[2+i])
		}
	}
	if len(partitions) != int(w.live.partitions) {
		t.Errorf("published on %v", partitions)
	}

	before := len(w.live.all())
	every := &envelope.RoomOpened{Comet: "c1", Room: "lobby", Seq: 9, Incarnation: 3, Every: true}
	if err := w.RoomOpened(t.Context(), every); err != nil {
		t.Fatal(err)
	}
	got, added := w.envelopes(), w.live.all()[before:]
	all.Seq = 9
	if len(added) != 1 || added[0].Partition != entries[0].Partition || !proto.Equal(got[before].Opened, all) {
		t.Errorf("published: %v in %v", got[before:], added)
	}

	if err := w.RoomOpened(t.Context(), &envelope.RoomOpened{Room: "lobby"}); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("no comet: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	cancel()
	<-done
	if err := w.RoomOpened(t.Context(), opened); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("after the end: %v", err)
	}
}
