package envelope

import "strconv"

// AddressKey is an Address that can be compared and can be the key of a map.
type AddressKey struct {
	Comet   string
	Session uint64
}

// AsKey returns the address as a key for maps.
func (a *Address) AsKey() AddressKey { return AddressKey{a.GetComet(), a.GetSession()} }

// Address returns the key as a message.
func (k AddressKey) Address() *Address { return &Address{Comet: k.Comet, Session: k.Session} }

// nameMark separates the comet and the number, of 16 hex digits, in a session's name. Keys that clients
// choose in practice do not have this form: ids of Android phones and UUIDs end in another way.
const nameMark = '~'

// nameDigits is the number of hex digits at the end of a session's name.
const nameDigits = 16

// Name returns the server's own name for the session. Clients and callers see it if the client chose no
// key. It cannot be guessed, because 58 bits of the session's number are random.
func (k AddressKey) Name() string { return string(k.appendName(make([]byte, 0, 64))) }

// AnonymousUser returns the user of a session whose client has no name of its own. goim's viewers, for
// example, all send the member id 0. Each of them becomes a user, so that the limits of one user do not
// count them together.
func AnonymousUser(session uint64) string {
	return string(AddressKey{anonymousUsers, session}.appendName(make([]byte, 0, 24)))
}

// anonymousUsers is the prefix of the names of anonymous users. goim has this member id for them.
const anonymousUsers = "0"

// IsAnonymous reports whether the user of the session is anonymous. Nothing is kept for such a user, and
// the session has no device.
func (s *SessionInfo) IsAnonymous() bool {
	return s.GetUser() == AnonymousUser(s.GetAddress().GetSession())
}

// HasName reports whether name is the server's own name for the session.
func (k AddressKey) HasName(name string) bool {
	return name == string(k.appendName(make([]byte, 0, 64)))
}

func (k AddressKey) appendName(dst []byte) []byte {
	dst = append(append(dst, k.Comet...), nameMark)
	for shift := 4 * (nameDigits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[k.Session>>shift&0xf])
	}
	return dst
}

// ParseSessionName returns the address of a session's name. ok is false if name does not have the form of
// one. A key that a client chose never has that form.
func ParseSessionName(name string) (k AddressKey, ok bool) {
	i := len(name) - nameDigits - 1
	if i < 1 || name[i] != nameMark {
		return AddressKey{}, false
	}
	id, err := strconv.ParseUint(name[i+1:], 16, 64)
	k = AddressKey{name[:i], id}
	return k, err == nil && k.HasName(name)
}
