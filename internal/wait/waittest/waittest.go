// Package waittest helps tests to wait for a condition, to read a log while it is written, and to find a
// free address.
package waittest

import (
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/internal/freeport"
)

// Limit bounds every wait. It is far longer than any step of a working program takes.
const Limit = 2 * time.Minute

// Eventually polls cond until it holds. It fails the test after Limit. what names the condition.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	EventuallyIn(t, Limit, what, cond)
}

// EventuallyIn is like Eventually with another limit.
func EventuallyIn(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// FreeAddress returns an address of this machine that nobody listens on.
func FreeAddress(t testing.TB) string {
	t.Helper()
	found, err := freeport.Find("127.0.0.1", 1)
	if err != nil {
		t.Fatal(err)
	}
	return found[0]
}

// A Log keeps at least the last logTail bytes of what is written to it, and at most maxLog.
const (
	maxLog  = 1 << 20
	logTail = 1 << 16
)

// Log is the log of a program under test. The zero value is empty. It is safe for concurrent use.
type Log struct {
	mu   sync.Mutex
	text []byte
}

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text = append(l.text, p...); len(l.text) > maxLog {
		l.text = append([]byte(nil), l.text[len(l.text)-logTail:]...)
	}
	return len(p), nil
}

// String returns the end of the log.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// Count returns the number of times that the log has a text.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }

// WaitFor waits until the log has a text. It fails the test after Limit.
func (l *Log) WaitFor(t testing.TB, text string) {
	t.Helper()
	for end := time.Now().Add(Limit); l.Count(text) == 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not say %q:\n%s", text, l)
		}
	}
}
