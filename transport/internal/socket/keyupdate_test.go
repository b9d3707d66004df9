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
	"io"
	"testing"
	"time"

	"imgo/transport"
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

// firstRecord returns the first record of TLS_AES_128_GCM_SHA256 under a traffic secret. The last byte of content is its type.
func firstRecord(t *testing.T, secret []byte, content ...byte) []byte {
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
	return aead.Seal(header, expand(t, secret, "iv", aead.NonceSize()), content, header)
}

// TestKeyUpdateAfterSilence checks that the answer to a client's key update is sent, though the deadline of the last Send has
// passed, and that the next Send succeeds. Otherwise the client would be closed as too slow. The client of crypto/tls sends no key
// updates, so the test makes the records.
func TestKeyUpdateAfterSilence(t *testing.T) {
	var log bytes.Buffer
	s, c := pairWithKeys(t, true, transport.ListenConfig{}, &log)
	client := c.(*tls.Conn)
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("the test knows one cipher suite, and not %s", tls.CipherSuiteName(suite))
	}
	var secret []byte
	for line := range bytes.Lines(log.Bytes()) {
		if fields := bytes.Fields(line); string(fields[0]) == "CLIENT_TRAFFIC_SECRET_0" {
			secret, _ = hex.DecodeString(string(fields[2]))
		}
	}
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

	update := firstRecord(t, secret, 24, 0, 0, 1, 1, 22)                             // with a request for one
	behind := firstRecord(t, expand(t, secret, "traffic upd", sha256.Size), 'b', 23) // with the next keys
	if _, err := client.NetConn().Write(append(update, behind...)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(got); err != nil || got[0] != 'b' {
		t.Fatalf("the server got %q, %v", got, err)
	}
	exchange(time.Now().Add(transporttest.WaitLimit))
}
