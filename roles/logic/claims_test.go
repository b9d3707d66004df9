package logic

import (
	"strconv"
	"testing"
)

func TestClaimsForgetTheOldest(t *testing.T) {
	s := &claims{byKey: make(map[string]claim)}
	for i := range maxClaims + 2 {
		s.remember(strconv.Itoa(i), claim{id: uint64(i) + 1})
	}
	s.remember("5", claim{id: 99}) // again: it stays as old as it is
	for key, want := range map[string]uint64{"0": 0, "1": 0, "2": 3, "5": 99, strconv.Itoa(maxClaims + 1): maxClaims + 2} {
		if c, ok := s.recall(key); c.id != want || ok != (want != 0) {
			t.Errorf("claim %s: %d, %v, want %d", key, c.id, ok, want)
		}
	}
	// A claim is given to one caller only.
	if _, ok := s.recall("2"); ok {
		t.Error("a claim was given twice")
	}
	if len(s.byKey) != maxClaims-3 || len(s.order) != len(s.byKey) {
		t.Errorf("%d claims and %d keys are left", len(s.byKey), len(s.order))
	}
}
