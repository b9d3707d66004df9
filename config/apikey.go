package config

import (
	"errors"
	"strconv"
	"strings"
)

// UnmarshalText reads "name:key", "name:key:rate" or a bare key, as a flag or
// the environment gives it.
func (k *APIKey) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ":")
	key := APIKey{Name: "default"}
	switch len(parts) {
	case 1:
		key.Key = parts[0]
	case 3:
		rate, err := strconv.ParseFloat(parts[2], 64)
		if err != nil {
			// The value is a secret: it is not repeated.
			return errors.New("has a rate that is not a number: write name:key:rate, such as backend:SECRET:100")
		}
		key.Rate = rate
		fallthrough
	case 2:
		key.Name, key.Key = parts[0], parts[1]
	default:
		return errors.New("is not an API key: write name:key or name:key:rate")
	}
	*k = key
	return nil
}
