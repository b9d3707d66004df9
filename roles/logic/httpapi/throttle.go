package httpapi

import (
	"net/netip"
	"sync"
	"time"

	"imgo/internal/source"

	"golang.org/x/time/rate"
)

const (
	// wrongBurst and wrongRate bound how many requests with a wrong key one address gets 401 for. More of
	// them get 429.
	wrongBurst = 20
	wrongRate  = rate.Limit(0.5)
	// maxAddresses bounds the addresses that are remembered, at about 100 bytes each.
	maxAddresses = 8192
)

// throttle slows down addresses that send wrong API keys. A good key is let in from any address, since
// callers behind one proxy share its address. A key has 16 bytes at least, so that guesses are hopeless
// anyway. The throttle keeps them from filling the log and the metrics unnoticed. Safe for concurrent
// use.
type throttle struct {
	mu    sync.Mutex
	wrong map[netip.Addr]*rate.Limiter
}

// note counts a request with a wrong key. It returns how long the caller should wait, 0 if the address has
// not sent too many.
func (t *throttle) note(remote string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	address, _ := netip.ParseAddrPort(remote) // those without one count as one
	from := source.Of(address.Addr())
	l := t.wrong[from]
	if l == nil {
		if t.wrong == nil || len(t.wrong) >= maxAddresses {
			t.wrong = make(map[netip.Addr]*rate.Limiter) // forgets the others
		}
		l = rate.NewLimiter(wrongRate, wrongBurst)
		t.wrong[from] = l
	}
	if l.AllowN(now, 1) {
		return 0
	}
	return time.Duration(float64(time.Second) / float64(wrongRate))
}
