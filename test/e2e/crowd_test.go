package e2e_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgo/config"
	"imgo/internal/race"
	"imgo/transport/transporttest"
)

// crowd runs the clients of TestCrowdThatNeverAuthenticates in a process of its own. args is
// "tcp-address ws-address number". It connects the clients, prints their number and waits until the
// server has closed all of them. Then it prints the number of clients that were told the reason.
func crowd(args string) int {
	var tcp, ws string
	var count int
	if _, err := fmt.Sscan(args, &tcp, &ws, &count); err != nil {
		fmt.Println("error", err)
		return 2
	}
	var mu sync.Mutex
	var ended sync.WaitGroup
	told, failed := 0, 0
	note := func(n *int) {
		mu.Lock()
		defer mu.Unlock()
		*n++
	}
	// A quarter of the clients sends nothing to the WebSocket port. Another quarter stops after the
	// upgrade there. The others send nothing to the TCP port.
	connect := func(i int) {
		addr := tcp
		if i%2 == 1 {
			addr = ws
		}
		conn, err := net.DialTimeout("tcp", addr, waitLimit)
		if err == nil && i%4 == 3 {
			var w *transporttest.WebSocket
			if w, _, err = transporttest.Upgrade(conn, "/sub"); err == nil {
				ended.Go(func() {
					defer conn.Close()
					if _, err := w.Next(); err != nil && strings.Contains(err.Error(), "3509") {
						note(&told)
					}
				})
				return
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			note(&failed)
			return
		}
		ended.Go(func() {
			defer conn.Close()
			_ = conn.SetReadDeadline(time.Now().Add(3 * waitLimit))
			b, _ := io.ReadAll(conn)
			if strings.Contains(string(b), `{"code":3509,`) {
				note(&told)
			}
		})
	}
	var connecting sync.WaitGroup
	turn := make(chan struct{}, 64) // more at a time would only fill the accept backlog
	for i := range count {
		turn <- struct{}{}
		connecting.Go(func() {
			connect(i)
			<-turn
		})
	}
	connecting.Wait()
	fmt.Println("connected", count-failed)
	ended.Wait()
	fmt.Println("told", told)
	return 0
}

// TestCrowdThatNeverAuthenticates opens 10,000 connections that never authenticate. They must not
// disturb other clients, and after the handshake timeout nothing may remain of them. Under the race
// detector, which is slow, there are fewer.
func TestCrowdThatNeverAuthenticates(t *testing.T) {
	// The handshake timeout must be long enough for all of them to be connected at once.
	count, handshake := 10_000, 6*time.Second
	if race.Enabled || testing.Short() {
		count = 2_000
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < uint64(count)+500 {
		count = int(limit.Cur) - 500
		t.Logf("only %d connections: a process may have %d files open", count, limit.Cur)
	}
	n := start(t, func(cfg *config.Config) {
		cfg.Protocol.HandshakeTimeout = handshake
	})
	w := n.witness(t)
	w.fine(t)
	heap, goroutines := memoryAfterGC(t, 0, 0)
	files := n.metric(t, "process_open_fds")

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", crowdEnv, n.ClientAddr("tcp"), n.ClientAddr("ws"), count))
	cmd.Stderr = n.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	said := bufio.NewReader(out)
	hear := func(word string) (number int) {
		t.Helper()
		line, err := said.ReadString('\n')
		if _, scanned := fmt.Sscanf(line, word+" %d", &number); err != nil || scanned != nil {
			t.Fatalf("the process with the crowd answered %q, %v", line, err)
		}
		return number
	}

	if connected := hear("connected"); connected != count {
		t.Fatalf("%d of %d connect", connected, count)
	}
	if open := n.metric(t, "process_open_fds") - files; open < float64(count)*0.98 {
		t.Errorf("only %v of %d connections are open at the same time", open, count)
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	t.Logf("%d connections: %d goroutines, %.1f MiB more in the heap", count, runtime.NumGoroutine()-goroutines,
		(float64(stats.HeapAlloc)-float64(heap))/(1<<20))
	for range 5 {
		began := time.Now()
		w.fine(t)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the witness waited %s for a message", took)
		}
		time.Sleep(50 * time.Millisecond)
	}
	// A new client can still connect.
	n.tcp(t).login("v2", "newcomer", "")

	// Only a WebSocket has a close code. On TCP it is not known which client would understand op 6.
	if told := hear("told"); told != count/4 {
		t.Errorf("%d of %d connections got a reason", told, count/4)
	}
	eventually(t, "two connections are left", func() bool { return n.metric(t, "imgo_comet_connections") == 2 })
	timeouts := n.metric(t, "imgo_comet_refused_total", `reason="handshake_timeout"`)
	if http := n.metric(t, "imgo_comet_refused_total", `reason="listener_http"`); timeouts != float64(count*3/4) || http != float64(count/4) {
		t.Errorf("counted %v and %v, want %d and %d", timeouts, http, count*3/4, count/4)
	}
	// The new client may use a goroutine or two. For each ended goroutine Go keeps about 500 bytes
	// for reuse. A leaked connection uses more.
	memoryAfterGC(t, heap+1<<20+700*uint64(count), goroutines+5)
	w.fine(t)
}

// memoryAfterGC collects garbage and returns the bytes on the heap and the number of goroutines.
// For each bound above 0 it waits until the value is within the bound.
func memoryAfterGC(t *testing.T, heap uint64, goroutines int) (uint64, int) {
	t.Helper()
	var stats runtime.MemStats
	for end := time.Now().Add(waitLimit); ; time.Sleep(100 * time.Millisecond) {
		runtime.GC()
		runtime.ReadMemStats(&stats)
		running := runtime.NumGoroutine()
		if (heap == 0 || stats.HeapAlloc <= heap) && (goroutines == 0 || running <= goroutines) {
			return stats.HeapAlloc, running
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines and %.1f MiB are left, want at most %d and %.1f MiB",
				running, float64(stats.HeapAlloc)/(1<<20), goroutines, float64(heap)/(1<<20))
		}
	}
}
