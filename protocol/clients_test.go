package protocol_test

import (
	"testing"

	"imgo/clients/go/raw"
	"imgo/protocol"
)

// TestGoClient compares the codes of the Go client, which has its own, with those of the server.
func TestGoClient(t *testing.T) {
	for _, code := range []struct {
		name           string
		client, server int64
	}{
		{"heartbeat", int64(raw.OpHeartbeat), int64(protocol.OpHeartbeat)},
		{"heartbeat reply", int64(raw.OpHeartbeatReply), int64(protocol.OpHeartbeatReply)},
		{"send", int64(raw.OpSend), int64(protocol.OpSend)},
		{"message", int64(raw.OpMessage), int64(protocol.OpMessage)},
		{"disconnect", int64(raw.OpDisconnect), int64(protocol.OpDisconnect)},
		{"auth", int64(raw.OpAuth), int64(protocol.OpAuth)},
		{"auth reply", int64(raw.OpAuthReply), int64(protocol.OpAuthReply)},
		{"raw", int64(raw.OpRaw), int64(protocol.OpRaw)},
		{"ack", int64(raw.OpAck), int64(protocol.OpAck)},
		{"ack reply", int64(raw.OpAckReply), int64(protocol.OpAckReply)},
		{"join", int64(raw.OpJoinRoom), int64(protocol.OpJoinRoom)},
		{"join reply", int64(raw.OpJoinRoomReply), int64(protocol.OpJoinRoomReply)},
		{"leave", int64(raw.OpLeaveRoom), int64(protocol.OpLeaveRoom)},
		{"leave reply", int64(raw.OpLeaveRoomReply), int64(protocol.OpLeaveRoomReply)},
		{"read", int64(raw.OpRead), int64(protocol.OpRead)},
		{"read reply", int64(raw.OpReadReply), int64(protocol.OpReadReply)},
		{"dismiss", int64(raw.OpDismiss), int64(protocol.OpDismiss)},
		{"refused", int64(raw.OpError), int64(protocol.OpError)},
		{"room changed", int64(raw.OpRoomChanged), int64(protocol.OpRoomChanged)},
		{"first accepted", int64(raw.FirstAcceptedOp), int64(protocol.FirstAcceptedOp)},
		{"short header", raw.HeaderV1, protocol.HeaderV1},
		{"long header", raw.HeaderV2, protocol.HeaderV2},
		{"version", int64(raw.Version2), int64(protocol.Version2)},
		{"shutdown", raw.CloseShutdown, int64(protocol.CloseShutdown)},
		{"slow", raw.CloseSlow, int64(protocol.CloseSlow)},
		{"stale heartbeat", raw.CloseStaleHeartbeat, int64(protocol.CloseStaleHeartbeat)},
		{"overload", raw.CloseOverload, int64(protocol.CloseOverload)},
		{"bad packet", raw.CloseBadPacket, int64(protocol.CloseBadPacket)},
		{"auth failed", raw.CloseAuthFailed, int64(protocol.CloseAuthFailed)},
		{"token expired", raw.CloseTokenExpired, int64(protocol.CloseTokenExpired)},
		{"token revoked", raw.CloseTokenRevoked, int64(protocol.CloseTokenRevoked)},
		{"too many sessions", raw.CloseTooManySessions, int64(protocol.CloseTooManySessions)},
		{"replaced by key", raw.CloseReplacedByKey, int64(protocol.CloseReplacedByKey)},
		{"kicked", raw.CloseKicked, int64(protocol.CloseKicked)},
		{"too large", raw.CloseTooLarge, int64(protocol.CloseTooLarge)},
		{"handshake timeout", raw.CloseHandshakeTimeout, int64(protocol.CloseHandshakeTimeout)},
		{"too many devices", raw.CloseTooManyDevices, int64(protocol.CloseTooManyDevices)},
	} {
		if code.client != code.server {
			t.Errorf("%s is %d in the client and %d in the server", code.name, code.client, code.server)
		}
	}
}
