package bus_test

import (
	"context"
	"sync"
	"testing"
)

// BenchmarkAppend appends records of 200 bytes from 64 callers.
func BenchmarkAppend(b *testing.B) {
	l := kept(b, open(b, options(fake(b).Brokers(), prefix())))
	appendFrom(b, l, 64)
}

// BenchmarkAppendAlone appends them one after the other.
func BenchmarkAppendAlone(b *testing.B) {
	l := kept(b, open(b, options(fake(b).Brokers(), prefix())))
	appendFrom(b, l, 1)
}

type appender interface {
	Partitions() int32
	Append(ctx context.Context, partition int32, value []byte) (int64, error)
}

func appendFrom(b *testing.B, l appender, callers int) {
	value := make([]byte, 200)
	b.ReportAllocs()
	b.SetBytes(int64(len(value)))
	b.ResetTimer()
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			for i := c; i < b.N; i += callers {
				if _, err := l.Append(context.Background(), int32(i)%l.Partitions(), value); err != nil {
					b.Errorf("Append: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
}
