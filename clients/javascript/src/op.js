/** The operations of the protocol that a client uses. */

export const heartbeat = 2;
export const heartbeatReply = 3;
export const send = 4;
export const message = 5;
export const disconnect = 6;
export const auth = 7;
export const authReply = 8;
export const ack = 18;
export const ackReply = 19;
export const joinRoom = 20;
export const joinRoomReply = 21;
export const leaveRoom = 22;
export const leaveRoomReply = 23;
export const read = 24;
export const readReply = 25;
export const dismiss = 26;
export const refused = 28;
export const roomChanged = 29;
