package pipe_test

import (
	"sync"
	"testing"

	"go.uber.org/goleak"

	"imgo/transport"
	"imgo/transport/pipe"
	"imgo/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func harness(text bool) transporttest.Harness {
	return transporttest.Harness{
		Scheme: pipe.Scheme, Text: text, Pieces: !text, CloseCodes: true,
		Framing: func(int) int { return 0 },
		Start: func(t *testing.T, o transporttest.Options, handle func(transport.Conn)) func() transporttest.Client {
			var handlers sync.WaitGroup
			t.Cleanup(handlers.Wait)
			return func() transporttest.Client {
				client, server := pipe.New(pipe.Options{Text: text, MaxBody: o.MaxBody, Buffer: o.WriteBuffer})
				handlers.Go(func() {
					handle(server)
					_ = server.Close(0, "")
				})
				t.Cleanup(func() { _ = client.Close() })
				return &transporttest.Pipe{Client: client, Text: text}
			}
		},
	}
}

func TestConformanceBinary(t *testing.T) { transporttest.Run(t, harness(false)) }
func TestConformanceText(t *testing.T)   { transporttest.Run(t, harness(true)) }
