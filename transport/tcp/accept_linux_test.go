package tcp_test

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"imgo/internal/wait/waittest"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// TestAcceptOutlivesErrors runs out of file descriptors and then frees some. The accept loop of the
// 2016 server ended at the first error.
func TestAcceptOutlivesErrors(t *testing.T) {
	var log waittest.Log
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
	waittest.Eventually(t, "the failure is logged", func() bool { return log.Count("cannot accept") > 0 })
	restore()
	ping(t, &transporttest.Stream{Conn: c})
}
