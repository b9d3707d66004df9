package raw

// The operations of a packet that clients of version 2 use. docs/reference/protocol.md describes them.
// OpError is the answer to an operation that was refused. OpRoomChanged says that the server has put the
// session into a room or has taken it out. OpDismiss says that messages were read elsewhere.
const (
	OpHeartbeat      int32 = 2
	OpHeartbeatReply int32 = 3
	OpSend           int32 = 4
	OpMessage        int32 = 5
	OpDisconnect     int32 = 6
	OpAuth           int32 = 7
	OpAuthReply      int32 = 8
	OpRaw            int32 = 9
	OpAck            int32 = 18
	OpAckReply       int32 = 19
	OpJoinRoom       int32 = 20
	OpJoinRoomReply  int32 = 21
	OpLeaveRoom      int32 = 22
	OpLeaveRoomReply int32 = 23
	OpRead           int32 = 24
	OpReadReply      int32 = 25
	OpDismiss        int32 = 26
	OpError          int32 = 28
	OpRoomChanged    int32 = 29
)

// FirstAcceptedOp is the lowest operation that a session has to accept: it gets a message of this or a higher
// operation only if its auth packet names it.
const FirstAcceptedOp int32 = 1000

// The header lengths in bytes. The header of version 2 has the message id.
const (
	HeaderV1 = 16
	HeaderV2 = 24
)

// Version2 is the version of a client that acknowledges messages by their ids.
const Version2 int16 = 2

// The close codes. With a code below 3500 a client reconnects, with one of 3500 or above it does not.
const (
	CloseShutdown         = 3001
	CloseSlow             = 3002
	CloseStaleHeartbeat   = 3004
	CloseOverload         = 3005
	CloseBadPacket        = 3500
	CloseAuthFailed       = 3501
	CloseTokenExpired     = 3502
	CloseTokenRevoked     = 3503
	CloseTooManySessions  = 3504
	CloseReplacedByKey    = 3505
	CloseKicked           = 3506
	CloseTooLarge         = 3507
	CloseHandshakeTimeout = 3509
	CloseTooManyDevices   = 3510
)

// reconnects reports whether a client reconnects after a close code, if the server does not say.
func reconnects(code int) bool { return code < CloseBadPacket }
