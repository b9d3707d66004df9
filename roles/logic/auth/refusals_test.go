package auth

import (
	"testing"
	"time"

	"imgo/envelope"
)

func TestRefusals(t *testing.T) {
	r := newRefusals()
	now := time.UnixMilli(1_800_000_000_000)
	hash := Hash("token")
	refusal := envelope.Errorf(envelope.CodeUnauthorized, "bad")
	if err := r.find(hash, 1, now); err != nil {
		t.Errorf("before it was refused: %v", err)
	}
	r.add(hash, 1, now, refusal)
	if err := r.find(hash, 1, now.Add(refusalTime)); err != refusal {
		t.Errorf("within the time: %v", err)
	}
	if err := r.find(hash, 1, now.Add(refusalTime+1)); err != nil {
		t.Errorf("after the time: %v", err)
	}
	if err := r.find(hash, 2, now); err != nil {
		t.Errorf("with other keys: %v", err)
	}
	// Another token with the same two first bytes takes the slot.
	other := hash
	other[31]++
	if err := r.find(other, 1, now); err != nil {
		t.Errorf("another token: %v", err)
	}
	r.add(other, 1, now, refusal)
	if err := r.find(hash, 1, now); err != nil {
		t.Errorf("its slot was taken: %v", err)
	}
}
