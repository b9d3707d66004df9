package envelope

// TokenInfo is what may be told of an opaque token: nothing that helps to guess it.
type TokenInfo struct {
	CreatedMS int64 // Unix milliseconds
	ExpiresMS int64 // Unix milliseconds. 0 means never
}
