package protocol

// CloseCode is the reason why the server ends a client's connection. It is the code of op 6 and of the
// WebSocket close frame (docs/reference/protocol.md). In the range 3000–3499 a client should reconnect
// with backoff, in 3500–3999 it should not reconnect.
type CloseCode int32

// The close codes.
const (
	CloseShutdown         CloseCode = 3001 // the server drains
	CloseSlow             CloseCode = 3002 // the client does not take a write within limits.slow_timeout
	CloseStaleHeartbeat   CloseCode = 3004 // no heartbeat in time
	CloseOverload         CloseCode = 3005 // the server cannot serve the connection now
	CloseBadPacket        CloseCode = 3500 // a packet that cannot be read, or is not allowed
	CloseAuthFailed       CloseCode = 3501 // the token is not valid
	CloseTokenExpired     CloseCode = 3502 // the token has expired
	CloseTokenRevoked     CloseCode = 3503 // the token was revoked
	CloseTooManySessions  CloseCode = 3504 // limits.sessions_per_user
	CloseReplacedByKey    CloseCode = 3505 // a newer session has the same key
	CloseKicked           CloseCode = 3506 // a caller of the API asked for it
	CloseTooLarge         CloseCode = 3507 // a packet over protocol.max_body
	CloseHandshakeTimeout CloseCode = 3509 // no auth packet in time
	CloseTooManyDevices   CloseCode = 3510 // kept.devices_per_user
)

// Reconnect reports whether a client should reconnect by itself.
func (c CloseCode) Reconnect() bool { return c >= 3000 && c < 3500 }
