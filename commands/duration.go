package commands

import (
	"time"

	"github.com/urfave/cli/v2"

	"imgo/internal/settings"
)

// duration is the value of a flag that takes a duration as the settings do, days included. The flag
// of the library takes no days, and its error does not say that the unit is missing.
type duration time.Duration

func (d *duration) Set(text string) error {
	parsed, err := settings.ParseDuration(text)
	*d = duration(parsed)
	return err //nolint:wrapcheck // the library puts the name of the flag in front
}

func (d *duration) String() string {
	if d == nil || *d == 0 {
		return ""
	}
	return settings.FormatDuration(time.Duration(*d))
}

// durationFlag returns the value of such a flag.
func durationFlag(c *cli.Context, name string) time.Duration {
	d, _ := c.Generic(name).(*duration)
	if d == nil {
		return 0
	}
	return time.Duration(*d)
}
