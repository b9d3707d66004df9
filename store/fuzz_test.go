package store_test

import (
	"bytes"
	"errors"
	"testing"

	"imgo/store"
)

// FuzzEntry decodes arbitrary stored bytes. It must not panic, and bytes that are accepted
// must be the bytes that would be written for the same entry.
func FuzzEntry(f *testing.F) {
	f.Add([]byte{}, int32(0), int64(0))
	f.Add(store.AppendLogEntry(nil, 0, 0, 0, 0, nil), int32(0), int64(0))
	f.Add(store.AppendLogEntry(nil, 15, 1<<40, 1<<40, 1_700_000_000_000, []byte(`{"test":1}`)), int32(15), int64(1<<40))
	f.Add(store.AppendLogEntry(nil, 15, 1<<40, 1<<39, 1_700_000_000_000, []byte(`{"test":1}`)), int32(15), int64(1<<40))
	f.Add(make([]byte, 64), int32(1), int64(1))
	f.Fuzz(func(t *testing.T, stored []byte, partition int32, offset int64) {
		e, err := store.DecodeLogEntry(stored, partition, offset)
		if err == nil {
			if again := store.AppendLogEntry(nil, partition, offset, e.After, e.TimeMS, e.Record); !bytes.Equal(again, stored) {
				t.Fatalf("%x decodes to %+v, which is stored as %x", stored, e, again)
			}
		}
		// The bytes as a record are read back unchanged, and a flipped bit is found.
		good := store.AppendLogEntry([]byte("before"), partition, offset, offset, e.TimeMS, stored)[len("before"):]
		if e, err = store.DecodeLogEntry(good, partition, offset); err != nil || !bytes.Equal(e.Record, stored) {
			t.Fatalf("%x was read back as %x, %v", stored, e.Record, err)
		}
		good[len(stored)%len(good)] ^= 0x10
		if _, err = store.DecodeLogEntry(good, partition, offset); !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("a flipped bit: %v", err)
		}
	})
}

// FuzzChecksum does the same for values with a checksum.
func FuzzChecksum(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0})
	f.Add(store.AppendChecksummed(nil, []byte("value")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if value, err := store.VerifyChecksum(b); err == nil && !bytes.Equal(store.AppendChecksummed(nil, value), b) {
			t.Fatalf("%x is read as %x, which is stored as %x", b, value, store.AppendChecksummed(nil, value))
		}
		stored := store.AppendChecksummed([]byte("before"), b)[len("before"):]
		if value, err := store.VerifyChecksum(stored); err != nil || !bytes.Equal(value, b) {
			t.Fatalf("%x was read back as %x, %v", b, value, err)
		}
		stored[len(stored)/2] ^= 1
		if _, err := store.VerifyChecksum(stored); !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("a flipped bit: %v", err)
		}
	})
}

func TestZerosAreNoValue(t *testing.T) {
	for n := range 64 {
		if _, err := store.VerifyChecksum(make([]byte, n)); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%d zeros are read as a value: %v", n, err)
		}
		if _, err := store.DecodeLogEntry(make([]byte, n), 0, 0); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%d zeros are read as an entry: %v", n, err)
		}
	}
}
