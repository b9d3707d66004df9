//go:build !linux

package bench

import (
	"errors"

	"github.com/urfave/cli/v2"
)

func description() string { return "It runs on Linux only: it reads /proc and uses epoll." }

// options are empty, because there are no flags.
type options struct{}

func flags(*options) []cli.Flag { return nil }

func action(*cli.Context, *options) error {
	return errors.New("imgo bench runs on Linux only: it reads /proc and uses epoll")
}

func childAction(c *cli.Context) error { return action(c, nil) }
