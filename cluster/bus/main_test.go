package bus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
	"imgo/internal/wait/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit bounds every wait.
const waitLimit = 30 * time.Second

// prefixes makes the topics of different tests different.
var prefixes atomic.Int64

func prefix() string { return fmt.Sprintf("test%d-%d", time.Now().UnixMilli(), prefixes.Add(1)) }

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	t.Cleanup(cancel)
	return ctx
}

func options(brokers []string, prefix string) bus.Options {
	return bus.Options{Brokers: brokers, Prefix: prefix, Compression: "lz4", Log: zerolog.Nop()}
}

// open opens a bus that is closed when the test ends.
func open(t testing.TB, o bus.Options) *bus.Bus {
	t.Helper()
	b, err := bus.Open(testContext(t), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// kept opens a log of 3 partitions.
func kept(t testing.TB, b *bus.Bus) *bus.Log {
	t.Helper()
	l, err := b.Log(testContext(t), bus.TopicOptions{Name: "kept", Numbered: true, Partitions: 3})
	if err != nil {
		t.Fatalf("Log: %v", err)
	}
	return l
}

func fake(t testing.TB) *kafkatest.Fake { return kafkatest.New(t, kafkatest.Options{}) }

var eventually = waittest.Eventually
