package rpc

import (
	"bytes"
	"testing"

	"imgo/envelope"
)

// sendAll empties a sender's queue. It returns the numbers of the calls in the order of their parts,
// and the joined data of each call.
func sendAll(s *sender) (order []uint64, data map[uint64][]byte, finished int) {
	data = make(map[uint64][]byte)
	for {
		parts, n := s.next()
		if len(parts) == 0 {
			return order, data, finished
		}
		finished += n
		for _, p := range parts {
			order = append(order, p.Call)
			data[p.Call] = joinParts(data[p.Call], p)
		}
	}
}

func newOutgoing(call uint64, size int) *outgoing {
	return &outgoing{part: envelope.CallPart{Call: call, Method: "m", Data: bytes.Repeat([]byte{byte(call)}, size)}}
}

func TestSmallRequestsGoBetweenThePartsOfLargeOnes(t *testing.T) {
	sizes := map[uint64]int{1: 3*maxPart + 10, 2: 100, 3: 2 * maxPart, 4: 0, 5: maxPart}
	s := newSender(nil)
	for call := range uint64(5) {
		s.enqueue(newOutgoing(call+1, sizes[call+1]))
	}
	order, data, finished := sendAll(&s)
	if finished != len(sizes) {
		t.Errorf("%d requests were finished", finished)
	}
	for call, size := range sizes {
		if want := newOutgoing(call, size).part.Data; !bytes.Equal(data[call], want) {
			t.Errorf("call %d arrived with %d bytes, not %d", call, len(data[call]), size)
		}
	}
	want := []uint64{1, 2, 3, 4, 5, 1, 3, 1, 1}
	if len(order) != len(want) {
		t.Fatalf("the parts went in the order %v, not %v", order, want)
	}
	for i := range want {
		if order[i] != want[i] {
			t.Fatalf("the parts went in the order %v, not %v", order, want)
		}
	}
}

func TestDroppedRequestsAreNotSent(t *testing.T) {
	s := newSender(nil)
	whole, half := newOutgoing(1, 100), newOutgoing(2, 3*maxPart)
	s.enqueue(whole)
	if s.drop(whole) {
		t.Error("a request of which nothing was sent counts as started")
	}
	s.enqueue(half)
	if parts, finished := s.next(); len(parts) != 1 || parts[0].Call != 2 || !parts[0].More || finished != 0 {
		t.Errorf("the first message has %d parts and finishes %d requests", len(parts), finished)
	}
	if !s.drop(half) {
		t.Error("a request of which a part was sent does not count as started")
	}
	if half.part.Data != nil {
		t.Error("a dropped request keeps its data")
	}
	if order, _, _ := sendAll(&s); len(order) != 0 {
		t.Errorf("parts of dropped requests were sent: %v", order)
	}
}

func TestTooLarge(t *testing.T) {
	const limit = 1000
	for _, c := range []struct {
		joined int
		next   *envelope.CallPart
		want   bool
	}{
		{0, &envelope.CallPart{Data: make([]byte, limit)}, false},
		{0, &envelope.CallPart{Data: make([]byte, limit+1)}, true},
		{0, &envelope.CallPart{Data: make([]byte, 1), Size: limit + 1, More: true}, true},
		{0, &envelope.CallPart{Data: make([]byte, 1), Size: 1<<32 - 1, More: true}, true},
		{limit, &envelope.CallPart{Data: make([]byte, 1)}, true},
	} {
		if got := tooLarge(make([]byte, c.joined), c.next, limit); got != c.want {
			t.Errorf("%d bytes and a part of %d of %d: too large %v", c.joined, len(c.next.Data), c.next.Size, got)
		}
	}
}
