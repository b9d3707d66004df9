// Package protocol names the elements of imgo's client protocol (see docs/reference/protocol.md):
// operations, header lengths, close codes and the limits that both sides know.
//
// The server uses these names and declares none of its own. The clients have their own copies. A test
// compares those of the Go client with these. The vectors and scenarios in clients/ hold the others. The
// package has constants and pure functions only. It does no I/O and imports no other package of imgo.
package protocol

// The operations of a packet, and which side sends them.
const (
	OpHeartbeat        int32 = 2   // from the client
	OpHeartbeatReply   int32 = 3   // from the server
	OpSend             int32 = 4   // from the client: a message for the backend
	OpMessage          int32 = 5   // from the server
	OpDisconnect       int32 = 6   // from the server, before it closes
	OpAuth             int32 = 7   // from the client, its first packet
	OpAuthReply        int32 = 8   // from the server
	OpRaw              int32 = 9   // from the server: a batch for goim clients
	OpChangeRoom       int32 = 12  // from a goim client
	OpChangeRoomReply  int32 = 13  // from the server
	OpSubscribe        int32 = 14  // from a goim client
	OpSubscribeReply   int32 = 15  // from the server
	OpUnsubscribe      int32 = 16  // from a goim client
	OpUnsubscribeReply int32 = 17  // from the server
	OpAck              int32 = 18  // from the client
	OpAckReply         int32 = 19  // from the server
	OpJoinRoom         int32 = 20  // from the client
	OpJoinRoomReply    int32 = 21  // from the server
	OpLeaveRoom        int32 = 22  // from the client
	OpLeaveRoomReply   int32 = 23  // from the server
	OpRead             int32 = 24  // from the client: the user has read messages
	OpReadReply        int32 = 25  // from the server
	OpDismiss          int32 = 26  // from the server: messages were read elsewhere
	OpError            int32 = 28  // from the server: an operation was refused
	OpRoomChanged      int32 = 29  // from the server: it has changed the session's rooms
	OpTest             int32 = 254 // from an imgo 2016 client: connection test
	OpTestReply        int32 = 255 // from the server
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
