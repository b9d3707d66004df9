package ws

// Handshake is what the listener makes of a request, by its own reading and by
// net/http's: the answer's key, empty where it is refused.
func (l *Listener) Handshake(head []byte) (own, nets string) {
	if accept, ok := l.plainRequest(head); ok {
		own = string(accept[:])
	}
	if accept, no := l.anyRequest(head); no == nil {
		nets = string(accept[:])
	}
	return own, nets
}
