//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"imgo/cluster/bus/kafkatest"
)

// TestChaosShort is the short form of `make chaos`. It runs real processes on a real
// Kafka, with few users and short faults, and without the random phase. The nodes have no race
// detector: test/cluster looks for races during the same faults.
func TestChaosShort(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	log := &lines{t: t}
	err := run(ctx, []string{
		"-users", "40", "-rate", "40", "-scale", "0.15", "-random", "0", "-short",
		// No other test uses these addresses.
		"-net", fmt.Sprintf("127.%d.%d", 100+rand.IntN(100), 1+rand.IntN(250)),
	}, log, log)
	switch {
	case errors.Is(err, kafkatest.ErrMissing) && os.Getenv("CI") != "true":
		t.Skipf("skipped: %v", err)
	case err != nil:
		t.Fatal(err)
	}
}

// lines is a writer that logs each line to the test.
type lines struct{ t *testing.T }

func (l *lines) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

func TestCommandLine(t *testing.T) {
	for args, want := range map[string]string{
		"-brokers 2":         "must be 1 or 3",
		"-scale 0":           "more than 0",
		"-faults kill-cat":   `no "kill-cat"`,
		"-serve -measure":    "not both",
		"-each 9":            "must be 1 to 4",
		"-users 0":           "more than 0",
		"kill-comet":         "no arguments",
		"-faults kill-comet": "",
		"-faults none":       "",
	} {
		s, err := parse(strings.Fields(args), &lines{t})
		if want == "" {
			if err != nil || s.faults == nil {
				t.Errorf("%s: %v", args, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// TestRelayCuts sends packets through the relay and cuts the relay off.
func TestRelayCuts(t *testing.T) {
	net3 := fmt.Sprintf("127.%d.%d", 100+rand.IntN(100), 1+rand.IntN(250))
	a, b := &node{ip: net3 + ".1"}, &node{ip: net3 + ".2"}
	r := newRelay()
	defer r.close()
	ends := map[*node]net.PacketConn{}
	for _, n := range []*node{a, b} {
		if err := errors.Join(r.add(t.Context(), n.ip), r.add(t.Context(), n.ip)); err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenPacket("udp", n.ip+":"+gossipPort)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ends[n] = c
	}
	to := &net.UDPAddr{IP: net.ParseIP(b.ip), Port: 7947}
	// arrives sends packets until one arrives, or until the time is over. It reports
	// whether one arrived.
	arrives := func(tries int) bool {
		buf := make([]byte, 10)
		for range tries {
			if _, err := ends[a].WriteTo([]byte("x"), to); err != nil {
				t.Fatal(err)
			}
			_ = ends[b].SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, _, err := ends[b].ReadFrom(buf); err == nil {
				return true
			}
		}
		return false
	}
	if !arrives(100) {
		t.Fatal("nothing arrives")
	}
	r.cut([]*node{a}, []*node{b})
	for arrives(1) { // wait for the packets under way
	}
	if arrives(5) {
		t.Error("it arrives although it was cut off")
	}
	r.fix()
	if !arrives(100) {
		t.Error("nothing arrives after it was repaired")
	}
}
