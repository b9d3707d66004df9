package comet

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"imgo/envelope"
	"imgo/transport"
)

// This file reads the bodies of packets.

// bodyText returns a body that names something: its bytes, or the string in a
// JSON frame, where an absent body and {} are empty as they are in server frames.
func bodyText(form transport.Form, body []byte) (string, error) {
	if !form.JSON() {
		return string(body), nil
	}
	if len(body) == 0 || string(body) == "{}" {
		return "", nil
	}
	var name string
	if json.Unmarshal(body, &name) != nil {
		return "", envelope.Invalid("body", "must be a string")
	}
	return name, nil
}

// bodyOperations reads operations that are separated by commas. A JSON frame may
// also have them in an array.
func bodyOperations(form transport.Form, body []byte) ([]int32, error) {
	var ops []int32
	if form.JSON() && json.Unmarshal(body, &ops) == nil {
		return ops, nil
	}
	list, err := bodyText(form, body)
	if err != nil || list == "" {
		return nil, err
	}
	for item := range strings.SplitSeq(list, ",") {
		op, err := strconv.ParseInt(strings.TrimSpace(item), 10, 32)
		if err != nil {
			return nil, envelope.Invalid("operations", "must be 32-bit integers separated by commas")
		}
		ops = append(ops, int32(op))
	}
	return ops, nil
}

// bodyAckIDs reads the ids of acknowledged messages, as bodyIDs does. A binary body has one at least.
func bodyAckIDs(form transport.Form, body []byte) ([]uint64, error) {
	if len(body) == 0 && !form.JSON() {
		return nil, envelope.Invalid("ack body", "is 0 bytes long, not one or more ids of 8")
	}
	return bodyIDs(form, body, "ack body")
}

// bodyIDs reads ids of messages: 8 bytes each, or decimal strings in the array of a JSON
// frame. field names the body in an error.
func bodyIDs(form transport.Form, body []byte, field string) ([]uint64, error) {
	if !form.JSON() {
		if len(body)%8 != 0 {
			return nil, envelope.Invalid(field, fmt.Sprintf("is %d bytes long, not one or more ids of 8", len(body)))
		}
		ids := make([]uint64, 0, len(body)/8)
		for ; len(body) > 0; body = body[8:] {
			ids = append(ids, binary.BigEndian.Uint64(body))
		}
		return ids, nil
	}
	var list []string
	if json.Unmarshal(body, &list) != nil {
		return nil, envelope.Invalid(field, "must be an array of decimal strings")
	}
	ids := make([]uint64, len(list))
	for i, text := range list {
		var err error
		if ids[i], err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, envelope.Invalid(field, fmt.Sprintf("has an id that is not one: %.32q", text))
		}
	}
	return ids, nil
}

// insert adds v to a sorted list, unless it is there.
func insert(list []int32, v int32) []int32 {
	i, ok := slices.BinarySearch(list, v)
	if ok {
		return list
	}
	return slices.Insert(list, i, v)
}

// remove removes v from a sorted list.
func remove(list []int32, v int32) []int32 {
	if i, ok := slices.BinarySearch(list, v); ok {
		return slices.Delete(list, i, i+1)
	}
	return list
}
