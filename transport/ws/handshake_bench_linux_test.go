package ws

import (
	"testing"

	"imgo/transport"
)

// BenchmarkHandshake measures the reading and checking of the upgrade request.
func BenchmarkHandshake(b *testing.B) {
	l, err := Listen(Config{ListenConfig: transport.ListenConfig{Addr: "127.0.0.1:0"}})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for name, head := range map[string]string{
		"small": "GET /sub HTTP/1.1\r\nHost: 127.0.0.1:8090\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
		"browser": "GET /sub HTTP/1.1\r\nHost: chat.example.com\r\nConnection: keep-alive, Upgrade\r\nPragma: no-cache\r\n" +
			"Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36\r\n" +
			"Upgrade: websocket\r\nOrigin: https://chat.example.com\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n" +
			"Accept-Language: en-GB,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
			"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, refused := l.answer([]byte(head), nil); refused != nil {
					b.Fatal(refused)
				}
			}
		})
	}
}
