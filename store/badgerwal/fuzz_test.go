package badgerwal

import (
	"errors"
	"testing"
)

// FuzzWAL checks arbitrary bytes as a write-ahead log. It must neither panic nor loop for ever.
func FuzzWAL(f *testing.F) {
	f.Add(make([]byte, 20))
	f.Add(append(make([]byte, 20), "\x40\x00\x0d\x01\x00key-of-13-by\x00v\x01\x02\x03\x04"...))
	f.Add(append(make([]byte, 20), "\x80\x00\x13\x01\x00!badger!txn\xff\xff\xff\xff\xff\xff\xff\xfe1\x01\x02\x03\x04"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := scanLog(b)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%v is not corrupt", err)
		}
		if err == nil && (x.end < logHeader || x.end > len(b) || x.first > x.last) {
			t.Fatalf("%d bytes: %+v", len(b), x)
		}
	})
}
