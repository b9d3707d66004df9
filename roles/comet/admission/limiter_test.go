package admission_test

import (
	"errors"
	"net/netip"
	"testing"

	"imgo/envelope"
	"imgo/roles/comet/admission"
)

// TestAcceptLimiter accepts connections until they are refused, and again after
// some have ended.
func TestAcceptLimiter(t *testing.T) {
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	accept := func(l *admission.AcceptLimiter, from netip.Addr) int {
		for n := range 1000 {
			if err := l.AddAccepted(from); err != nil {
				if !errors.Is(err, envelope.ErrTooMany) {
					t.Fatal(err)
				}
				return n
			}
		}
		return 1000
	}

	// An eighth and 16 more than the limit are accepted, so that most clients can
	// be told why they are refused.
	all := admission.NewAcceptLimiter(80, 0)
	if n := accept(all, addr("192.0.2.1")) + accept(all, addr("192.0.2.2")); n != 106 {
		t.Errorf("%d connections were accepted, want 106", n)
	}
	all.RemoveAccepted(addr("192.0.2.1"))
	if n := accept(all, addr("192.0.2.3")); n != 1 {
		t.Errorf("%d connections were accepted after one had ended, want 1", n)
	}

	one := admission.NewAcceptLimiter(0, 8)
	for _, test := range []struct {
		from string
		want int
	}{
		{"192.0.2.1", 25}, {"192.0.2.1", 0}, {"192.0.2.2", 25}, {"::ffff:192.0.2.2", 0},
		{"2001:db8::1", 25}, {"2001:db8::ffff:1", 0}, {"2001:db8:0:1::1", 25},
	} {
		if n := accept(one, addr(test.from)); n != test.want {
			t.Errorf("%d connections of %s were accepted, want %d", n, test.from, test.want)
		}
	}
	if n := accept(admission.NewAcceptLimiter(-1, 0), addr("192.0.2.1")); n != 1000 {
		t.Errorf("%d connections were accepted without a limit, want 1,000", n)
	}
}
