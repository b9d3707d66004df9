package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time that is written with its unit: "500ms", "5s",
// "8m", "168h" or "7d". It is a struct so that a bare number in a file is an
// error instead of so many nanoseconds.
type Duration struct{ time.Duration }

// UnmarshalText reads a duration; a number without a unit is refused.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := parseDuration(string(text))
	if err != nil {
		return err
	}
	d.Duration = v
	return nil
}

// MarshalText writes what String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the shortest form that UnmarshalText reads: "168h", not "168h0m0s".
func (d Duration) String() string {
	s := d.Duration.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// errDuration teaches how a duration is written.
var errDuration = errors.New(`is not a duration: write a number and its unit, such as "500ms", "5s", "8m", "168h" or "7d"`)

// parseDuration is time.ParseDuration with days, and without a sign.
func parseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	var days time.Duration
	rest := s
	if number, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, errDuration
		}
		days, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	switch {
	case err != nil:
		return 0, errDuration
	case d < 0:
		return 0, errors.New("must not be negative")
	case days > math.MaxInt64-d:
		return 0, errors.New("is longer than 292 years")
	}
	return days + d, nil
}

// ByteSize is a number of bytes, written with a binary unit ("64KiB",
// "16MiB", "2GiB") or as a bare number.
type ByteSize int64

// The units of ByteSize.
const (
	KiB ByteSize = 1 << 10
	MiB ByteSize = 1 << 20
	GiB ByteSize = 1 << 30
	TiB ByteSize = 1 << 40
)

// byteUnits are tried in this order: the longer suffix before the shorter.
var byteUnits = []struct {
	suffix string
	size   ByteSize
}{
	{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}, {"TiB", TiB},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", KiB}, {"M", MiB}, {"G", GiB}, {"T", TiB},
	{"B", 1}, {"", 1},
}

// errByteSize teaches how a size is written.
var errByteSize = errors.New(`is not a size: write bytes as a whole number, or with a unit such as "64KiB", "16MiB" or "2GiB"`)

// UnmarshalText reads a size.
func (b *ByteSize) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	for _, unit := range byteUnits {
		number, ok := strings.CutSuffix(strings.ToUpper(s), strings.ToUpper(unit.suffix))
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil {
			return errByteSize
		}
		if n < 0 {
			return errors.New("must not be negative")
		}
		if n > math.MaxInt64/int64(unit.size) {
			return errors.New("is more than any disk holds")
		}
		*b = ByteSize(n) * unit.size
		return nil
	}
	return errByteSize
}

// MarshalText writes what String does.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String is the size in the largest binary unit that it is a whole number of.
func (b ByteSize) String() string {
	for _, unit := range []struct {
		suffix string
		size   ByteSize
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if b >= unit.size && b%unit.size == 0 {
			return strconv.FormatInt(int64(b/unit.size), 10) + unit.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// parseAPIKey reads "name:key", "name:key:rate" or a bare key, as a flag or
// the environment gives it.
func parseAPIKey(s string) (APIKey, error) {
	parts := strings.Split(s, ":")
	key := APIKey{Name: "default"}
	switch len(parts) {
	case 1:
		key.Key = parts[0]
	case 3:
		rate, err := strconv.ParseFloat(parts[2], 64)
		if err != nil {
			// The value is a secret: it is not repeated.
			return APIKey{}, errors.New("has a rate that is not a number: write name:key:rate, such as backend:SECRET:100")
		}
		key.Rate = rate
		fallthrough
	case 2:
		key.Name, key.Key = parts[0], parts[1]
	default:
		return APIKey{}, errors.New("is not an API key: write name:key or name:key:rate")
	}
	return key, nil
}

// parseBool reads what people write for on and off.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true", "on", "yes", "1":
		return true, nil
	case "false", "off", "no", "0":
		return false, nil
	}
	return false, fmt.Errorf("is neither true nor false")
}

// splitList splits a comma-separated list and drops what is empty.
func splitList(s string) []string {
	list := []string{}
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
