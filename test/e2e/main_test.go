package e2e_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// goroutines runs all tests with a goroutine for each connection.
var goroutines = flag.Bool("goroutines", false, "no epoll")

// crowdEnv makes the test binary a crowd of clients instead: the two ends of
// 10,000 connections are more files than one process may have open.
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
