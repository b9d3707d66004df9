package raw_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"

	"imgo/clients/go/raw"
)

// FuzzPacket reads any bytes as a packet, from a stream and from memory. Both agree, nothing panics, and what was read is written again
// with the same meaning.
func FuzzPacket(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(raw.AppendPacket(nil, raw.Packet{Op: raw.OpMessage, ID: 7, Body: []byte("hello")}))
	f.Add(raw.AppendPacket(nil, raw.Packet{Op: raw.OpAuth, Seq: 1, Body: []byte("{}")}))
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0, 16, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 10
		p, rest, err := raw.DecodePacket(data, most)
		q, rerr := raw.ReadPacket(bytes.NewReader(data), most)
		var format *raw.FormatError
		switch {
		case (err == nil) != (rerr == nil):
			t.Fatalf("from memory: %v; from a stream: %v", err, rerr)
		case err != nil && !errors.As(err, &format) && err != io.EOF && err != io.ErrUnexpectedEOF:
			t.Fatalf("the error is %v", err)
		case err != nil:
			return
		case !reflect.DeepEqual(p, q) || len(p.Body) > most:
			t.Fatalf("from memory: %+v; from a stream: %+v", p, q)
		}
		if p.Version == 0 {
			return // 0 is written as 2
		}
		if again := raw.AppendPacket(nil, p); !bytes.Equal(again, data[:len(data)-len(rest)]) {
			t.Fatalf("%x is written again as %x", data[:len(data)-len(rest)], again)
		}
	})
}
