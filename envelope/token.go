package envelope

// Token is what is known of an opaque client token, but for the token itself.
// Times are Unix milliseconds.
type Token struct {
	User string
	// ExpiresMS is when the token ends. 0 means never.
	ExpiresMS int64
	CreatedMS int64
	// Rooms are the rooms and patterns that the token allows its sessions to join.
	Rooms []string
}
