package ws_test

import (
	"io"
	"sync"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// BenchmarkWrite measures the server's cost of a frame, including the kernel, for single frames and
// for eight in one write.
func BenchmarkWrite(b *testing.B) {
	for name, n := range map[string]int{"one": 1, "eight": 8} {
		b.Run(name, func(b *testing.B) {
			ready := make(chan transport.Conn)
			end := make(chan struct{})
			l, err := ws.Listen(ws.Config{ListenConfig: transport.ListenConfig{Addr: "127.0.0.1:0"}})
			if err != nil {
				b.Fatal(err)
			}
			transporttest.Serve(b, l, func(c transport.Conn) {
				ready <- c
				<-end
			})
			defer close(end)
			client, _, err := transporttest.Upgrade(transporttest.Dial(b, l, nil), ws.DefaultPath)
			if err != nil {
				b.Fatal(err)
			}
			_ = client.SetDeadline(time.Time{})
			c := <-ready
			var reader sync.WaitGroup
			reader.Go(func() { _, _ = io.Copy(io.Discard, client) })
			defer reader.Wait()
			defer client.Close()
			frame := transport.NewMessage(protocol.OpMessage, 1, make([]byte, 200)).Frame(transport.FormGoim)
			frames := make([][]byte, n)
			for i := range frames {
				frames[i] = frame
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Write(time.Now().Add(time.Minute), frames...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
