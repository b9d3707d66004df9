package rpc

import "imgo/envelope"

// maxPart bounds the data of one part, in bytes. The parts of a large request or
// reply alternate with the small ones of the same stream.
const maxPart = 256 << 10

// splitPart takes a first part of maxPart bytes off p, which is larger.
func splitPart(p *envelope.CallPart) *envelope.CallPart {
	first := &envelope.CallPart{
		Call: p.Call, Data: p.Data[:maxPart:maxPart], More: true, Size: p.Size,
		Method: p.Method, TimeoutUs: p.TimeoutUs, Generation: p.Generation,
	}
	p.Data, p.Size, p.Method, p.TimeoutUs, p.Generation = p.Data[maxPart:], 0, "", 0, 0
	return first
}

// joinParts returns data with the data of the next part. It makes no copy of a
// part that is the only one.
func joinParts(data []byte, next *envelope.CallPart) []byte {
	if data == nil && !next.More {
		return next.Data
	}
	if data == nil {
		data = make([]byte, 0, max(int(next.Size), len(next.Data)))
	}
	return append(data, next.Data...)
}

// tooLarge reports whether data with the next part, or with all that it
// announces, is over the limit.
func tooLarge(data []byte, next *envelope.CallPart, limit int) bool {
	return int64(next.Size) > int64(limit) || len(data)+len(next.Data) > limit
}
