package imgoclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// shutDown sends the disconnect packet of a comet that shuts down.
func (p *peer) shutDown(addresses ...string) {
	p.t.Helper()
	list, err := json.Marshal(addresses)
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(raw.OpDisconnect, 0, 0, fmt.Sprintf(`{"code":3001,"reason":"shutting down","reconnect":true,"addresses":%s}`, list))
	p.close()
}

// deadAddress returns an address where nothing listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// bare returns an address without its scheme.
func bare(address string) string { return strings.TrimPrefix(address, "ws://") }

// TestGoesToTheOthers checks that the addresses of a disconnect packet (op 6) are tried first. The
// client skips those that are down or unusable. Later it uses the configured address again.
func TestGoesToTheOthers(t *testing.T) {
	for _, network := range []string{"tcp", "ws"} {
		t.Run(network, func(t *testing.T) {
			home, other, third := newServer(t, network), newServer(t, network), newServer(t, network)
			r := start(t, home, nil)
			p := home.welcome()
			p.push(1)
			r.expect(1)
			p.expectAcks(1)
			p.shutDown("http://"+bare(home.address), "nonsense", deadAddress(t), bare(other.address), bare(third.address))
			p = other.welcome()
			p.push(1, 2)
			r.expect(2) // 1 was handled before by the same client
			p.expectAcks(2)
			// A server that refuses the client may name other addresses too.
			p.shutDown(third.address)
			q := third.accept()
			q.shutDown(other.address)
			p = other.welcome()
			p.close() // lost without a disconnect packet: back to the configured address
			home.welcome()
			third.none(0)
			r.stop()
		})
	}
}

// TestComesHome checks that the client uses the configured address when all others are down.
func TestComesHome(t *testing.T) {
	s := newServer(t, "tcp")
	r := start(t, s, nil)
	s.welcome().shutDown(deadAddress(t), deadAddress(t))
	s.welcome()
	var closed *raw.CloseError
	if err := <-r.lost; !errors.As(err, &closed) || len(closed.Addresses) != 2 || !closed.Reconnect {
		t.Errorf("the loss was %v", err)
	}
	if len(r.lost) != 2 {
		t.Errorf("%d further attempts failed, want one for each address", len(r.lost))
	}
	r.stop()
}

// TestOthersDoNotSendItInCircles checks that the backoff grows if servers that shut down name one
// another.
func TestOthersDoNotSendItInCircles(t *testing.T) {
	s := newServer(t, "tcp")
	var mu sync.Mutex
	var waits []time.Duration
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.MinBackoff, cfg.MaxBackoff = time.Millisecond, 64*time.Millisecond
		cfg.OnState = func(to imgoclient.StateChange) {
			mu.Lock()
			defer mu.Unlock()
			if to.State == imgoclient.Waiting {
				waits = append(waits, to.RetryIn)
			}
		}
	})
	for range 30 {
		s.accept().shutDown(s.address)
	}
	s.welcome()
	mu.Lock()
	defer mu.Unlock()
	if longest := slices.Max(waits[1:]); longest < 8*time.Millisecond {
		t.Errorf("the longest wait of 30 was %v: the backoff does not grow", longest)
	}
	r.stop()
}

// TestFailuresBeforeTheDialBackOff checks that the backoff grows if no address is tried, also while other addresses are left.
func TestFailuresBeforeTheDialBackOff(t *testing.T) {
	s := newServer(t, "tcp")
	var broken atomic.Bool
	waits := make(chan time.Duration, 1000)
	r := start(t, s, func(cfg *imgoclient.Config) {
		cfg.MinBackoff, cfg.MaxBackoff = time.Millisecond, 24*time.Hour
		cfg.TokenSource = func(context.Context) (string, error) {
			if broken.Load() {
				return "", errors.New("no token now")
			}
			return "t", nil
		}
		cfg.OnState = func(to imgoclient.StateChange) {
			if to.State == imgoclient.Waiting {
				waits <- to.RetryIn
			}
		}
	})
	p := s.welcome()
	broken.Store(true)
	p.shutDown(deadAddress(t), deadAddress(t))
	longest := time.Duration(0)
	for range 30 {
		longest = max(longest, <-waits)
		r.Connect() // the waits are not waited for
	}
	if longest < time.Second {
		t.Errorf("the longest wait of 30 was %v: the backoff does not grow", longest)
	}
	r.stop()
}

// TestNeverWithoutTLS checks that a client with TLS ignores addresses without TLS. Its token would
// be sent in the clear there.
func TestNeverWithoutTLS(t *testing.T) {
	plain := newServer(t, "tcp")
	api := discovery(t, true, func() []string { return []string{"tcp://" + plain.address, "ws://" + plain.address} })
	lost := make(chan error, 10)
	r := start(t, plain, func(cfg *imgoclient.Config) {
		cfg.Address, cfg.Discover = "tls://"+deadAddress(t), api.URL
		cfg.TLS = api.Client().Transport.(*http.Transport).TLSClientConfig
		cfg.OnState = func(to imgoclient.StateChange) {
			if to.State != imgoclient.Waiting {
				return
			}
			select {
			case lost <- to.Err:
			default:
			}
		}
	})
	for range 3 {
		<-lost
	}
	plain.none(0)
	r.stop()
}

// discovery is an API server that answers with addresses.
func discovery(t *testing.T, secure bool, addresses func() []string) *httptest.Server {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list := addresses()
		if list == nil || r.URL.Path != "/v1/nodes/best" || r.URL.Query().Get("transport") == "" {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"addresses": list}); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewUnstartedServer(handler)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server
}

// TestDiscover checks that each connection goes to the best nodes of that moment. The client uses
// the configured address if there is no answer, or if those nodes are down.
func TestDiscover(t *testing.T) {
	for _, network := range []string{"tcp", "ws"} {
		t.Run(network, func(t *testing.T) {
			home, a, b := newServer(t, network), newServer(t, network), newServer(t, network)
			answers := make(chan []string, 10)
			answers <- []string{bare(a.address)}
			answers <- []string{deadAddress(t), b.address}
			answers <- []string{deadAddress(t)}
			answers <- nil
			answers <- []string{a.address}
			api := discovery(t, false, func() []string { return <-answers })
			r := start(t, home, func(cfg *imgoclient.Config) { cfg.Discover = api.URL })
			a.welcome().close()
			b.welcome().close()
			home.welcome().close() // the only discovered node was down
			home.welcome().close() // no answer
			a.welcome()
			r.stop()
		})
	}
}

func TestDiscoverIsChecked(t *testing.T) {
	for _, tt := range []struct{ address, discover, want string }{
		{"127.0.0.1:1", "push.example.com:7172", "http://"},
		{"127.0.0.1:1", "ws://push.example.com", "http://"},
		{"tls://127.0.0.1:1", "http://push.example.com", "https://"},
		{"wss://127.0.0.1:1", "http://push.example.com", "https://"},
		{"wss://127.0.0.1:1", "https://push.example.com/v1/nodes/best?zone=eu", ""},
		{"127.0.0.1:1", "http://push.example.com:7172", ""},
	} {
		_, err := imgoclient.New(imgoclient.Config{Address: tt.address, Discover: tt.discover, Token: "t", OnMessage: handleNothing})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %s: %v", tt.address, tt.discover, err)
		}
	}
}

func handleNothing(context.Context, imgoclient.Message) error { return nil }
