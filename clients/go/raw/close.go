package raw

import (
	"encoding/json"
	"fmt"
)

// CloseError is the reason that the server gave for the end of a connection.
type CloseError struct {
	Code   int    // a close code of docs/reference/protocol.md, or 0 if unknown
	Reason string // for a person
	// Reconnect reports whether the client should connect again by itself.
	Reconnect bool
	// Addresses are other servers to connect to, best first.
	Addresses []string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("the server closed the connection: %s (%d)", e.Reason, e.Code)
}

// ParseClose parses the body of a packet with the operation OpDisconnect. If the body does
// not say whether to reconnect, the range of the code decides.
func ParseClose(body []byte) *CloseError {
	var said struct {
		Code      int      `json:"code"`
		Reason    string   `json:"reason"`
		Reconnect *bool    `json:"reconnect"`
		Addresses []string `json:"addresses"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return &CloseError{Reason: "no reason that can be read", Reconnect: true}
	}
	reconnect := reconnects(said.Code)
	if said.Reconnect != nil {
		reconnect = *said.Reconnect
	}
	if said.Reason == "" {
		said.Reason = "no reason given"
	}
	return &CloseError{Code: said.Code, Reason: said.Reason, Reconnect: reconnect, Addresses: said.Addresses}
}
