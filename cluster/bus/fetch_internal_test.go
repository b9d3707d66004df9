package bus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// batchOf returns a batch of records as Kafka stores it. If appended is not 0, the broker has put
// its time into the head, in Unix milliseconds.
func batchOf(t testing.TB, first int64, compression kafka.Compression, appended int64, times ...int64) []byte {
	t.Helper()
	var recs []kafka.Record
	for _, ms := range times {
		recs = append(recs, kafka.Record{Time: time.UnixMilli(ms), Value: kafka.NewBytes([]byte("x"))})
	}
	set := protocol.RecordSet{Version: 2, Attributes: protocol.Attributes(compression), Records: protocol.NewRecordReader(recs...)}
	var b bytes.Buffer
	if _, err := set.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	batch := b.Bytes()[4:] // without the length of the set
	binary.BigEndian.PutUint64(batch, uint64(first))
	if appended != 0 {
		attributes := binary.BigEndian.Uint16(batch[batchAttributesAt:])
		binary.BigEndian.PutUint16(batch[batchAttributesAt:], attributes|attributeAppendTime)
		binary.BigEndian.PutUint64(batch[batchMaxTimeAt:], uint64(appended))
	}
	const crcAt = batchAttributesAt - 4
	binary.BigEndian.PutUint32(batch[crcAt:], crc32.Checksum(batch[batchAttributesAt:], crc32.MakeTable(crc32.Castagnoli)))
	return batch
}

// setOf returns batches with their length before them, as in a response.
func setOf(batches ...[]byte) []byte {
	all := bytes.Join(batches, nil)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(all))), all...)
}

// readSet returns the offsets and times of a record set, until it ends or is broken.
func readSet(raw []byte) (offsets, times []int64, err error) {
	var s recordSet
	if _, err := s.ReadFrom(bytes.NewReader(raw)); err != nil {
		return nil, nil, err
	}
	for {
		rec, err := s.next()
		if errors.Is(err, io.EOF) {
			return offsets, times, nil
		}
		if err != nil {
			return offsets, times, err
		}
		offsets, times = append(offsets, rec.Offset), append(times, rec.Time.UnixMilli())
	}
}

func TestTimesOfRecords(t *testing.T) {
	for name, test := range map[string]struct {
		set            []byte
		offsets, times []int64
	}{
		"none":        {set: setOf()},
		"null":        {set: []byte{0xff, 0xff, 0xff, 0xff}},
		"own times":   {setOf(batchOf(t, 7, 0, 0, 100, 300)), []int64{7, 8}, []int64{100, 300}},
		"append time": {setOf(batchOf(t, 7, 0, 5000, 100, 300)), []int64{7, 8}, []int64{5000, 5000}},
		"compressed":  {setOf(batchOf(t, 7, kafka.Lz4, 5000, 100, 300)), []int64{7, 8}, []int64{5000, 5000}},
		"several": {
			setOf(batchOf(t, 7, 0, 5000, 100), batchOf(t, 9, kafka.Zstd, 6000, 300, 301)),
			[]int64{7, 9, 10}, []int64{5000, 6000, 6000},
		},
		"changed topic": {setOf(batchOf(t, 7, 0, 0, 100), batchOf(t, 8, 0, 6000, 300)), []int64{7, 8}, []int64{100, 6000}},
		"cut":           {setOf(batchOf(t, 7, 0, 5000, 100), batchOf(t, 8, 0, 6000, 300)[:65]), []int64{7}, []int64{5000}},
	} {
		t.Run(name, func(t *testing.T) {
			offsets, times, err := readSet(test.set)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(offsets, test.offsets) || !slices.Equal(times, test.times) {
				t.Errorf("offsets %v at %v, want %v at %v", offsets, times, test.offsets, test.times)
			}
		})
	}
}

// FuzzRecordSet checks that no bytes of a broker make reading them panic or go on for ever.
func FuzzRecordSet(f *testing.F) {
	f.Add(setOf(batchOf(f, 7, 0, 5000, 100, 300)))
	f.Add(setOf(batchOf(f, 7, kafka.Gzip, 5000, 100), batchOf(f, 8, 0, 0, 1)))
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _, _ = readSet(raw) })
}
