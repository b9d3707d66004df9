//go:build !linux

// Command bench measures a real imgo process. It needs Linux: /proc and epoll.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: runs on Linux only: it reads /proc and uses epoll")
	os.Exit(1)
}
