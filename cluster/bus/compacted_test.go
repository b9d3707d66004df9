package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"imgo/cluster/bus"
	"imgo/envelope"
)

// follower reads a compacted topic into a list.
type follower struct {
	mu   sync.Mutex
	got  []string
	err  error // of Follow, once done is closed
	done chan struct{}
}

func follow(t *testing.T, c *bus.Compacted, from int64) *follower {
	t.Helper()
	f := &follower{done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(f.done)
		f.err = c.Follow(ctx, from, func(offset int64, key, value []byte) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			text := fmt.Sprintf("%d %s=%s", offset, key, value)
			if value == nil {
				text = fmt.Sprintf("%d %s gone", offset, key)
			}
			f.got = append(f.got, text)
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-f.done
	})
	return f
}

func (f *follower) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

func testCompacted(t *testing.T, brokers []string) {
	p := prefix()
	c, err := open(t, options(brokers, p)).Compacted(testContext(t), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	all := follow(t, c, 0)
	want := []string{"0 a=1", "1 b=2", "2 a gone", "3 a=", "4 =x"}
	for i, put := range []struct{ key, value []byte }{
		{[]byte("a"), []byte("1")}, {[]byte("b"), []byte("2")}, {[]byte("a"), nil}, {[]byte("a"), []byte{}}, {nil, []byte("x")},
	} {
		offset, err := c.Put(testContext(t), put.key, put.value)
		if err != nil || offset != int64(i) {
			t.Fatalf("Put %d: offset %d, %v", i, offset, err)
		}
	}
	eventually(t, "all entries", func() bool { return slices.Equal(all.list(), want) })
	if end, err := c.End(testContext(t)); err != nil || end != 5 {
		t.Errorf("End: %d, %v", end, err)
	}
	later := follow(t, c, 3)
	eventually(t, "the later entries", func() bool { return slices.Equal(later.list(), want[3:]) })

	// Another process reads the same, from any offset.
	other, err := open(t, options(brokers, p)).Compacted(testContext(t), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	there := follow(t, other, 1)
	eventually(t, "the entries elsewhere", func() bool { return slices.Equal(there.list(), want[1:]) })
	if err := other.Follow(testContext(t), 6, nil); !errors.Is(err, envelope.ErrOutOfRange) {
		t.Errorf("past the end: %v", err)
	}
	refusal := errors.New("enough")
	if err := other.Follow(testContext(t), 0, func(int64, []byte, []byte) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("fn's error: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	<-there.done
	if !errors.Is(there.err, envelope.ErrClosed) {
		t.Errorf("after Close: %v", there.err)
	}
	if _, err := other.Put(testContext(t), nil, nil); !errors.Is(err, envelope.ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
}

func TestCompacted(t *testing.T) { testCompacted(t, fake(t).Brokers()) }

func TestCompactedWithoutKafka(t *testing.T) {
	f := fake(t)
	c, err := open(t, options(f.Brokers(), prefix())).Compacted(testContext(t), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	all := follow(t, c, 0)
	if _, err := c.Put(testContext(t), []byte("a"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the entry", func() bool { return len(all.list()) == 1 })
	f.Stop()
	put := make(chan error, 1)
	go func() {
		_, err := c.Put(context.Background(), []byte("b"), []byte("2"))
		put <- err
	}()
	f.Resume()
	if err := <-put; err != nil {
		t.Errorf("Put: %v", err)
	}
	eventually(t, "the entry after it", func() bool { return len(all.list()) >= 2 })
}
