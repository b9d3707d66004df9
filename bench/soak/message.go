package soak

import (
	"bytes"
	"fmt"
	"strconv"
)

// message is the body of a push. The number N comes first, so that numberOf finds it
// without reading the rest.
type message struct {
	N   uint64 `json:"n"`
	Pad string `json:"pad,omitempty"`
}

// numberOf returns the number of a message.
func numberOf(body []byte) (uint64, error) {
	const head = `{"n":`
	rest, ok := bytes.CutPrefix(body, []byte(head))
	end := bytes.IndexAny(rest, ",}")
	if !ok || end < 0 {
		return 0, fmt.Errorf("body %.100q has no number", body)
	}
	return strconv.ParseUint(string(rest[:end]), 10, 64)
}
