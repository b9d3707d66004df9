package socket_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"imgo/transport"
	"imgo/transport/internal/socket"
	"imgo/transport/transporttest"
)

// expand derives n bytes from a secret of TLS 1.3 (RFC 8446, 7.1).
func expand(t *testing.T, secret []byte, label string, n int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), byte(len(label)))
	info = append(append(info, label...), 0)
	b, err := hkdf.Expand(sha256.New, secret, string(info), n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// record returns record number seq of TLS_AES_128_GCM_SHA256 under a traffic secret. The last byte of content is its type.
func record(t *testing.T, secret []byte, seq byte, content ...byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(expand(t, secret, "key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	header := []byte{23, 3, 3, 0, byte(len(content) + aead.Overhead())}
	nonce := expand(t, secret, "iv", aead.NonceSize())
	nonce[len(nonce)-1] ^= seq
	return aead.Seal(header, nonce, content, header)
}

// nextSecret returns the traffic secret after a key update.
func nextSecret(t *testing.T, secret []byte) []byte {
	t.Helper()
	return expand(t, secret, "traffic upd", sha256.Size)
}

// askForUpdate is the content of a key update that asks for one.
var askForUpdate = []byte{24, 0, 0, 1, 1, 22}

// keyUpdater is a client of TLS whose traffic secret is known. The client of crypto/tls sends no key updates, so the tests
// make the records.
func keyUpdater(t *testing.T, cfg transport.ListenConfig) (s *socket.Socket, client *tls.Conn, secret []byte) {
	t.Helper()
	var log bytes.Buffer
	s, c := pairWithKeys(t, true, cfg, &log)
	client = c.(*tls.Conn)
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("the test knows one cipher suite, and not %s", tls.CipherSuiteName(suite))
	}
	for line := range bytes.Lines(log.Bytes()) {
		if fields := bytes.Fields(line); string(fields[0]) == "CLIENT_TRAFFIC_SECRET_0" {
			secret, _ = hex.DecodeString(string(fields[2]))
		}
	}
	return s, client, secret
}

// TestKeyUpdateAfterSilence checks that the answer to a client's key update is sent, though the deadline of the last Send has
// passed, and that the next Send succeeds. Otherwise the client would be closed as too slow.
func TestKeyUpdateAfterSilence(t *testing.T) {
	s, client, secret := keyUpdater(t, transport.ListenConfig{})
	got := make([]byte, 1)
	exchange := func(deadline time.Time) {
		t.Helper()
		if err := s.Send(deadline, [][]byte{[]byte("a")}, nil); err != nil {
			t.Fatalf("Send: %v", err)
		}
		if _, err := io.ReadFull(client, got); err != nil || got[0] != 'a' {
			t.Fatalf("the client got %q, %v", got, err)
		}
	}
	deadline := time.Now().Add(500 * time.Millisecond)
	exchange(deadline)
	<-time.After(time.Until(deadline) + 10*time.Millisecond)

	update := record(t, secret, 0, askForUpdate...)
	behind := record(t, nextSecret(t, secret), 0, 'b', 23)
	if _, err := client.NetConn().Write(append(update, behind...)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(got); err != nil || got[0] != 'b' {
		t.Fatalf("the server got %q, %v", got, err)
	}
	exchange(time.Now().Add(transporttest.WaitLimit))
}

// askUntilBlocked sends key updates, each of which asks for one, until the server reads no more of them. A byte between some
// of them goes against the limit of crypto/tls for updates in succession.
func askUntilBlocked(t *testing.T, c net.Conn, secret []byte) {
	t.Helper()
	const most, noProgress = 1_000_000, 500 * time.Millisecond
	for n := 0; n < most; {
		var b []byte
		for ; len(b) < 4<<10; n++ {
			seq := byte(0)
			if n%10 == 0 {
				b, seq = append(b, record(t, secret, 0, 'x', 23)...), 1
			}
			b = append(b, record(t, secret, seq, askForUpdate...)...)
			secret = nextSecret(t, secret)
		}
		_ = c.SetWriteDeadline(time.Now().Add(noProgress))
		if _, err := c.Write(b); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("the server has answered %d key updates that nobody reads", most)
}

// TestKeyUpdatesWithoutReading checks that a client that asks for key updates, and reads no answer, does not hold the
// server's reader beyond its deadline, also if a Send waits for that reader.
func TestKeyUpdatesWithoutReading(t *testing.T) {
	soon := func(s *socket.Socket) { _ = s.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) }
	for name, end := range map[string]func(s *socket.Socket, send func()){
		"deadline has passed":         func(s *socket.Socket, _ func()) { _ = s.SetReadDeadline(time.Unix(1, 0)) },
		"deadline comes":              func(s *socket.Socket, _ func()) { soon(s) },
		"deadline comes, Send before": func(s *socket.Socket, send func()) { send(); soon(s) },
		"deadline comes, Send after":  func(s *socket.Socket, send func()) { soon(s); send() },
		"evicted":                     func(s *socket.Socket, _ func()) { s.Evict() },
	} {
		t.Run(name, func(t *testing.T) {
			s, client, secret := keyUpdater(t, transport.ListenConfig{WriteBuffer: 4 << 10})
			c := client.NetConn().(*net.TCPConn)
			if err := errors.Join(c.SetReadBuffer(4<<10), c.SetWriteBuffer(4<<10)); err != nil {
				t.Fatal(err)
			}
			ended, want := make(chan error, 2), 0
			begin := func(run func() error) {
				want++
				go func() { ended <- run() }()
			}
			begin(func() error { _, err := io.Copy(io.Discard, s); return err })
			askUntilBlocked(t, c, secret)
			end(s, func() {
				begin(func() error { return s.Send(time.Now().Add(time.Hour), [][]byte{make([]byte, 1<<20)}, nil) })
			})
			limit := time.After(transporttest.WaitLimit)
			for range want {
				select {
				case err := <-ended:
					// crypto/tls takes what follows an update that it could not answer for forged.
					if err == nil {
						t.Error("there was no error")
					}
				case <-limit:
					t.Fatal("the reader is still held")
				}
			}
		})
	}
}

// TestSendAfterReadDeadline checks that a client can be told why it is closed when its time is over.
func TestSendAfterReadDeadline(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s, c := pair(t, secure, transport.ListenConfig{})
		if err := s.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Send(time.Now().Add(transporttest.WaitLimit), [][]byte{[]byte("a")}, nil); err != nil {
				t.Fatalf("TLS %v: Send: %v", secure, err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatalf("TLS %v: the client got nothing: %v", secure, err)
			}
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("TLS %v: Read: %v", secure, err)
		}
	}
}
