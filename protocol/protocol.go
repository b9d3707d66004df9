// Package protocol names the elements of imgo's client protocol (see docs/reference/protocol.md):
// operations, header lengths, close codes and the limits that both sides know.
//
// The server uses these names and declares none of its own. The clients have their own copies. A test
// compares those of the Go client with these. The vectors and scenarios in clients/ hold the others. The
// package has constants and pure functions only. It does no I/O and imports no other package of imgo.
package protocol

// The operations of a packet. OpError is the answer to an operation that was refused, and OpRoomChanged
// says that the server has changed which rooms the session is in. OpDismiss says that messages were read elsewhere.
// 254 and 255 are imgo 2016's connection test.
const (
	OpHeartbeat        int32 = 2
	OpHeartbeatReply   int32 = 3
	OpSend             int32 = 4
	OpMessage          int32 = 5
	OpDisconnect       int32 = 6
	OpAuth             int32 = 7
	OpAuthReply        int32 = 8
	OpRaw              int32 = 9
	OpChangeRoom       int32 = 12
	OpChangeRoomReply  int32 = 13
	OpSubscribe        int32 = 14
	OpSubscribeReply   int32 = 15
	OpUnsubscribe      int32 = 16
	OpUnsubscribeReply int32 = 17
	OpAck              int32 = 18
	OpAckReply         int32 = 19
	OpJoinRoom         int32 = 20
	OpJoinRoomReply    int32 = 21
	OpLeaveRoom        int32 = 22
	OpLeaveRoomReply   int32 = 23
	OpRead             int32 = 24
	OpReadReply        int32 = 25
	OpDismiss          int32 = 26
	OpError            int32 = 28
	OpRoomChanged      int32 = 29
	OpTest             int32 = 254
	OpTestReply        int32 = 255
)

// OpIfAccepted is OpMessage inside the server for a push by goim's API: a session of a goim client gets it
// only if it accepts operation 5. It is OpMessage on the wire.
const OpIfAccepted = -OpMessage

// FirstAcceptedOp is the lowest operation that needs a subscription. A session gets such an operation
// only if it is in "accepts" of the auth packet or was added by OpSubscribe.
const FirstAcceptedOp int32 = 1000

// The header lengths in bytes. Version 1 is imgo 2016's and goim's; version 2
// adds the message id.
const (
	HeaderV1 = 16
	HeaderV2 = 24
)

// Version2 is the version in the auth packet of a client that needs message ids.
const Version2 int16 = 2

// The limits that both sides know.
const (
	// DefaultMaxBody is the largest body of a packet, in bytes, unless
	// protocol.max_body says otherwise.
	DefaultMaxBody = 64 << 10
	// MaxNameBytes bounds the names of users and devices, in bytes.
	MaxNameBytes = 128
	// MaxRoomBytes bounds rooms and session keys of clients and of /goim, in bytes.
	// goim had no bound but that of a packet. /v1 allows MaxNameBytes.
	MaxRoomBytes = 512
	// MaxTokenBytes bounds a client's token, in bytes.
	MaxTokenBytes = 8 << 10
	// MaxKeyBytes bounds an idempotency key with the scope of its caller, in bytes.
	MaxKeyBytes = 512
	// MaxTokenRooms bounds the rooms and patterns of rooms that one token has.
	MaxTokenRooms = 100
	// MaxReadIDs bounds the single messages that one call may tell to be read.
	MaxReadIDs = 500
	// MaxReasonBytes bounds the reason of a close, in bytes. A WebSocket close frame has no more room.
	MaxReasonBytes = 123
)
