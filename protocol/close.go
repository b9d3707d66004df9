package protocol

// CloseCode is the reason why the server ends a client's connection. It is the code of op 6 and of the
// WebSocket close frame (docs/reference/protocol.md). In the range 3000–3499 a client should reconnect
// with backoff, in 3500–3999 it should not reconnect.
type CloseCode int32

// The close codes.
const (
	CloseShutdown         CloseCode = 3001
	CloseSlow             CloseCode = 3002
	CloseStaleHeartbeat   CloseCode = 3004
	CloseOverload         CloseCode = 3005
	CloseBadPacket        CloseCode = 3500
	CloseAuthFailed       CloseCode = 3501
	CloseTokenExpired     CloseCode = 3502
	CloseTokenRevoked     CloseCode = 3503
	CloseTooManySessions  CloseCode = 3504
	CloseReplacedByKey    CloseCode = 3505
	CloseKicked           CloseCode = 3506
	CloseTooLarge         CloseCode = 3507
	CloseHandshakeTimeout CloseCode = 3509
	CloseTooManyDevices   CloseCode = 3510
)

// Reconnect reports whether a client should reconnect by itself.
func (c CloseCode) Reconnect() bool { return c >= 3000 && c < 3500 }
