package comet

import "fmt"

// AuthOf is what an auth body says, in words, as parseAuth reads it and as
// encoding/json alone does; scanned says whether the first was its own doing.
func AuthOf(body []byte, maxRooms int) (got, want string, scanned bool) {
	var a authBody
	var room string
	scan := authScan{b: body}
	auth, err := parseAuth(body, maxRooms)
	other, otherErr := parseAnyAuth(body, maxRooms)
	return fmt.Sprintf("%#v %v", auth, err), fmt.Sprintf("%#v %v", other, otherErr), scan.read(&a, &room)
}
