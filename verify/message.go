package verify

import (
	"bytes"
	"fmt"
	"strconv"
)

// message is the body of a push. The run and the number N come first, so that
// numberOf finds them without reading the rest.
type message struct {
	Run string `json:"verify"`
	N   uint64 `json:"n"`
	Pad string `json:"pad,omitempty"`
}

// messageHead returns the first bytes of every message of a run.
func messageHead(run string) []byte {
	return fmt.Appendf(nil, `{"verify":%q,"n":`, run)
}

// numberOf returns the number of a message.
func numberOf(head, body []byte) (uint64, error) {
	rest, ok := bytes.CutPrefix(body, head)
	end := bytes.IndexAny(rest, ",}")
	if !ok || end < 0 {
		return 0, fmt.Errorf("a message that this run has not pushed: %.100q", body)
	}
	return strconv.ParseUint(string(rest[:end]), 10, 64)
}
