package e2e_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// goroutines runs all tests with one goroutine for each connection instead of epoll.
var goroutines = flag.Bool("goroutines", false, "no epoll")

// crowdEnv turns the test binary into a crowd of clients. One process may not have enough files
// open for both ends of 10,000 connections.
const crowdEnv = "IMGO_E2E_CROWD"

func TestMain(m *testing.M) {
	if args := os.Getenv(crowdEnv); args != "" {
		os.Exit(crowd(args))
	}
	flag.Parse()
	code := m.Run()
	if binary.dir != "" {
		_ = os.RemoveAll(binary.dir)
	}
	if err := goleak.Find(); err != nil {
		println("goroutines were left:", err.Error())
		code = max(code, 1)
	}
	os.Exit(code)
}
