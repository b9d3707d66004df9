package settings

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// errDuration explains how to write a duration.
var errDuration = errors.New(`is not a duration: write a number and its unit, such as "500ms", "5s", "8m", "168h" or "7d"`)

// ParseDuration parses a duration like time.ParseDuration, and also accepts days. It
// returns an error for a negative duration, and for a number other than 0 without a unit.
func ParseDuration(s string) (time.Duration, error) {
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

// FormatDuration returns the shortest form that ParseDuration reads, such as "168h"
// instead of "168h0m0s".
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeUnits are tried in this order. A longer suffix must stand before a shorter one
// that it ends with.
var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40},
	{"B", 1}, {"", 1},
}

// errSize explains how to write a size.
var errSize = errors.New(`is not a size: write bytes as a whole number, or with a unit such as "64KiB", "16MiB" or "2GiB"`)

// ParseSize parses a number of bytes: a whole number, with or without a unit.
func ParseSize(s string) (int64, error) {
	s = strings.ToUpper(strings.TrimSpace(s))
	for _, unit := range sizeUnits {
		number, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		switch {
		case err != nil:
			return 0, errSize
		case n < 0:
			return 0, errors.New("must not be negative")
		case n > math.MaxInt64/unit.bytes:
			return 0, errors.New("is more than any disk holds")
		}
		return n * unit.bytes, nil
	}
	return 0, errSize
}

// FormatSize returns n in the largest binary unit that gives a whole number.
func FormatSize(n int64) string {
	for _, unit := range []struct {
		suffix string
		bytes  int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}

// FormatFloat returns x without a decimal point if it is a whole number. TOML reads
// both forms.
func FormatFloat(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
