package tcp_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"imgo/transport"
	"imgo/transport/transporttest"
)

// lines is a log that is safe for concurrent use.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(s))
}

// TestAcceptOutlivesErrors runs out of file descriptors and then frees some. The accept loop of the
// 2016 server ended at the first error.
func TestAcceptOutlivesErrors(t *testing.T) {
	var log lines
	l := listen(t, transport.ListenConfig{Log: zerolog.New(&log)})
	transporttest.Serve(t, l, echo)
	ping(t, &transporttest.Stream{Conn: transporttest.Dial(t, l, nil)})

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	probe, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = uint64(probe.Fd()) + 8
	_ = probe.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Skipf("cannot lower the limit of open files: %v", err)
	}
	var fill []*os.File
	restore := func() {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		for _, f := range fill {
			_ = f.Close()
		}
		fill = nil
	}
	defer restore()
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		fill = append(fill, f)
	}
	// This frees one descriptor for the client and none for the server's side.
	_ = fill[0].Close()
	fill = fill[1:]
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	transporttest.Eventually(t, "the failure is logged", func() bool { return log.has("cannot accept") })
	restore()
	ping(t, &transporttest.Stream{Conn: c})
}
