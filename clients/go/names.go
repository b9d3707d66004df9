package imgoclient

import "unicode/utf8"

// maxName bounds the names of devices, platforms and rooms, in bytes.
const maxName = 128

// checkName returns an error unless name can be the name of a device, a platform or a room.
func checkName(field, name string) error {
	switch {
	case name == "":
		return invalid("%s must not be empty", field)
	case len(name) > maxName:
		return invalid("%s is %d bytes long, at most %d are allowed", field, len(name), maxName)
	case !utf8.ValidString(name):
		return invalid("%s is not valid UTF-8", field)
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return invalid("%s has the control character %U", field, r)
		}
	}
	return nil
}
