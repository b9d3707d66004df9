package bus

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// kafka-go gives a record the time of the process that appended it, also where the topic
// asks for the broker's time (message.timestamp.type=LogAppendTime). A broker does not write its
// time into the records but into the head of their batch. So this package has its own
// response to a fetch, which keeps these times. kafka.Client.Fetch cannot be used beside it.
func init() { protocol.Register(&fetch.Request{}, &fetchResponse{}) } //nolint:gochecknoinits // kafka-go's own types are registered so, too

// fetchResponse is fetch.Response with recordSet in place of protocol.RecordSet.
type fetchResponse struct {
	ThrottleTimeMs int32           `kafka:"min=v1,max=v11"`
	ErrorCode      int16           `kafka:"min=v7,max=v11"`
	SessionID      int32           `kafka:"min=v7,max=v11"`
	Topics         []fetchedTopics `kafka:"min=v0,max=v11"`
}

// ApiKey implements protocol.Message.
func (r *fetchResponse) ApiKey() protocol.ApiKey { return protocol.Fetch }

type fetchedTopics struct {
	Topic      string             `kafka:"min=v0,max=v11"`
	Partitions []fetchedPartition `kafka:"min=v0,max=v11"`
}

type fetchedPartition struct {
	Partition            int32                       `kafka:"min=v0,max=v11"`
	ErrorCode            int16                       `kafka:"min=v0,max=v11"`
	HighWatermark        int64                       `kafka:"min=v0,max=v11"`
	LastStableOffset     int64                       `kafka:"min=v4,max=v11"`
	LogStartOffset       int64                       `kafka:"min=v5,max=v11"`
	AbortedTransactions  []fetch.ResponseTransaction `kafka:"min=v4,max=v11"`
	PreferredReadReplica int32                       `kafka:"min=v11,max=v11"`
	RecordSet            recordSet                   `kafka:"min=v0,max=v11"`
}

// recordSet is the records of a fetch, and when brokers took them.
type recordSet struct {
	records kafka.RecordReader // nil: there are none
	stamps  []stamp            // one for each batch
}

// stamp is when a broker took the records of a batch.
type stamp struct {
	last int64 // offset of the last record
	ms   int64 // Unix milliseconds. It is 0 if the topic does not ask for this time
}

// The head of a batch of records in version 2: offsets of its fields, in bytes. Source:
// https://kafka.apache.org/documentation/#recordbatch
const (
	batchLengthAt     = 8 // of what follows the length
	batchMagicAt      = 16
	batchAttributesAt = 21
	batchLastDeltaAt  = 23
	batchMaxTimeAt    = 35
	batchHead         = 61

	// attributeAppendTime says that the broker has put its time where the newest time
	// of the records was.
	attributeAppendTime = 1 << 3
)

// rawSets are buffers for record sets: protocol.RecordSet copies what it reads.
var rawSets = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxRawSet is the largest buffer that is kept, in bytes.
const maxRawSet = 2 * fetchBytes

// ReadFrom reads a record set as it stands in a response: its length, and then the batches. kafka-go panics
// when it decodes some kinds of broken batches. It does so on a goroutine of its own, so that is an error here.
func (s *recordSet) ReadFrom(r io.Reader) (n int64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read the records: they are broken: %v", p)
		}
	}()
	raw := rawSets.Get().(*bytes.Buffer)
	defer func() {
		if raw.Cap() <= maxRawSet {
			rawSets.Put(raw)
		}
	}()
	raw.Reset()
	if n, err := io.CopyN(raw, r, 4); err != nil {
		return n, fmt.Errorf("read the length of the records: %w", err)
	}
	size := max(0, int32(binary.BigEndian.Uint32(raw.Bytes()))) // -1 means none, too
	if n, err := io.CopyN(raw, r, int64(size)); err != nil {
		return 4 + n, fmt.Errorf("read %d bytes of records: %w", size, err)
	}
	s.stamps = stampsOf(raw.Bytes()[4:])
	var set protocol.RecordSet
	if _, err := set.ReadFrom(raw); err != nil {
		return 4 + int64(size), fmt.Errorf("read the records: %w", err)
	}
	s.records = set.Records
	return 4 + int64(size), nil
}

// stampsOf returns the stamps of batches. The last batch may be cut: Kafka fills what was asked for.
func stampsOf(batches []byte) (stamps []stamp) {
	for len(batches) >= batchHead && batches[batchMagicAt] == 2 {
		first := int64(binary.BigEndian.Uint64(batches))
		s := stamp{last: first + int64(binary.BigEndian.Uint32(batches[batchLastDeltaAt:]))}
		if binary.BigEndian.Uint16(batches[batchAttributesAt:])&attributeAppendTime != 0 {
			s.ms = int64(binary.BigEndian.Uint64(batches[batchMaxTimeAt:]))
		}
		stamps = append(stamps, s)
		length := int64(binary.BigEndian.Uint32(batches[batchLengthAt:])) + batchLengthAt + 4
		if length > int64(len(batches)) {
			break
		}
		batches = batches[length:]
	}
	return stamps
}

// next returns the next record, with the time at which a broker took it if the topic asks for that. It returns io.EOF
// at the end.
func (s *recordSet) next() (*kafka.Record, error) {
	if s.records == nil {
		return nil, io.EOF
	}
	rec, err := s.records.ReadRecord()
	if err != nil {
		return nil, err
	}
	for len(s.stamps) > 0 && s.stamps[0].last < rec.Offset {
		s.stamps = s.stamps[1:]
	}
	if len(s.stamps) > 0 && s.stamps[0].ms != 0 {
		rec.Time = time.UnixMilli(s.stamps[0].ms)
	}
	return rec, nil
}

// fetchPartition asks Kafka for the records of a partition from an offset on. At the end of
// the partition it waits for fetchWait.
func (l *Log) fetchPartition(ctx context.Context, partition int32, from int64) (*fetchedPartition, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := l.transport.RoundTrip(ctx, l.client.Addr, &fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(fetchWait.Milliseconds()), MinBytes: 1, MaxBytes: fetchBytes,
		SessionID: -1, SessionEpoch: -1,
		Topics: []fetch.RequestTopic{{Topic: l.topic, Partitions: []fetch.RequestPartition{{
			Partition: partition, CurrentLeaderEpoch: -1, FetchOffset: from, LogStartOffset: -1, PartitionMaxBytes: fetchBytes,
		}}}},
	})
	if err != nil {
		return nil, err
	}
	res := m.(*fetchResponse)
	if res.ErrorCode != 0 {
		return nil, kafka.Error(res.ErrorCode)
	}
	if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("the answer to a fetch has %d topics, want one with one partition", len(res.Topics))
	}
	p := &res.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		return nil, kafka.Error(p.ErrorCode)
	}
	return p, nil
}
