package envelope

import (
	"strconv"
	"strings"
)

// AddressKey is an Address that can be compared and can be the key of a map.
type AddressKey struct {
	Comet   string
	Session uint64
}

// AsKey returns the address as a map key.
func (a *Address) AsKey() AddressKey { return AddressKey{a.GetComet(), a.GetSession()} }

// Address returns the message of the key.
func (k AddressKey) Address() *Address { return &Address{Comet: k.Comet, Session: k.Session} }

// Name returns the server's own name for the session. Clients and callers see
// it where the client chose no key.
func (k AddressKey) Name() string { return string(k.appendName(make([]byte, 0, 64))) }

// HasName reports whether name is the server's own name for the session.
func (k AddressKey) HasName(name string) bool {
	return name == string(k.appendName(make([]byte, 0, 64)))
}

func (k AddressKey) appendName(dst []byte) []byte {
	return strconv.AppendUint(append(append(dst, k.Comet...), '-'), k.Session, 16)
}

// ParseSessionName returns the address of a session's name. ok is false if
// name is not one that Name returns.
func ParseSessionName(name string) (k AddressKey, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return AddressKey{}, false
	}
	id, err := strconv.ParseUint(name[i+1:], 16, 64)
	k = AddressKey{name[:i], id}
	return k, err == nil && k.HasName(name)
}
