package conformance

import (
	"os"
	"path/filepath"
	"syscall"

	"imgo/clients/conformance/driver"
)

// stopDriver stops the process of the driver, as a laptop that sleeps does.
func stopDriver(w *world) {
	w.Helper()
	if err := w.driver.Signal(syscall.SIGSTOP); err != nil {
		w.Fatal(err)
	}
}

// continueDriver lets the process of the driver go on.
func continueDriver(w *world) {
	w.Helper()
	if err := w.driver.Signal(syscall.SIGCONT); err != nil {
		w.Fatal(err)
	}
}

// fakeClock is the wall clock of a driver.
type fakeClock struct {
	w    *world
	file string
}

// newFakeClock starts the driver anew with a wall clock that can jump. It needs libfaketime (the package faketime of
// Debian), and a runtime that reads the clock through the C library.
func newFakeClock(w *world) *fakeClock {
	w.Helper()
	if !w.lang.LibC {
		w.Skip("this runtime does not read the clock through the C library, so the library's clock cannot be faked")
	}
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
	if err != nil || len(found) == 0 {
		const reason = "libfaketime is not installed: apt-get install faketime"
		if os.Getenv("CI") == "true" {
			w.Fatal(reason)
		}
		w.Skip(reason)
	}
	f := &fakeClock{w, filepath.Join(w.TempDir(), "clock")}
	f.jump("+0")
	// The monotonic clock stays true, as it does when somebody sets the time.
	w.command = driver.Command{Args: w.command.Args, Dir: w.command.Dir, Env: append([]string{
		"LD_PRELOAD=" + found[0], "FAKETIME_TIMESTAMP_FILE=" + f.file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
		"DONT_FAKE_MONOTONIC=1",
	}, w.command.Env...)}
	w.restart()
	return f
}

// jump sets the wall clock to the true time and so much more.
func (f *fakeClock) jump(to string) {
	f.w.Helper()
	if err := os.WriteFile(f.file+".new", []byte(to+"\n"), 0o600); err != nil {
		f.w.Fatal(err)
	}
	if err := os.Rename(f.file+".new", f.file); err != nil { // nobody reads half of it
		f.w.Fatal(err)
	}
}
