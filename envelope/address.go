package envelope

import "strconv"

// AddressKey is an Address that can be compared and can be the key of a map.
type AddressKey struct {
	Comet   string
	Session uint64
}

// AsKey returns the address as a map key.
func (a *Address) AsKey() AddressKey { return AddressKey{a.GetComet(), a.GetSession()} }

// Address returns the message of the key.
func (k AddressKey) Address() *Address { return &Address{Comet: k.Comet, Session: k.Session} }

// nameMark stands in a session's name between the comet and the number, of 16 hex digits. No key that clients
// choose in practice has this form: IDs of Android phones and UUIDs end otherwise.
const nameMark = '~'

// nameDigits is how many hex digits the number in a session's name has.
const nameDigits = 16

// Name returns the server's own name for the session. Clients and callers see
// it where the client chose no key. It cannot be guessed: 58 bits of the
// session's number are random.
func (k AddressKey) Name() string { return string(k.appendName(make([]byte, 0, 64))) }

// AnonymousUser returns the user of a session whose client has no name of its own,
// such as goim's viewers, who all say that they are member 0. Each is a user by
// itself, so that no limit of a user counts them together.
func AnonymousUser(session uint64) string {
	return string(AddressKey{anonymousUsers, session}.appendName(make([]byte, 0, 24)))
}

// anonymousUsers begins the names of anonymous users. It is goim's number for them.
const anonymousUsers = "0"

// IsAnonymous reports whether the session is of an anonymous user. Nothing is kept
// for it, and it has no device.
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

// ParseSessionName returns the address of a session's name. ok is false if
// name does not have the form of one. No key that a client chose has that form.
func ParseSessionName(name string) (k AddressKey, ok bool) {
	i := len(name) - nameDigits - 1
	if i < 1 || name[i] != nameMark {
		return AddressKey{}, false
	}
	id, err := strconv.ParseUint(name[i+1:], 16, 64)
	k = AddressKey{name[:i], id}
	return k, err == nil && k.HasName(name)
}
