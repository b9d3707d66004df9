//go:build !linux

package conformance

func stopDriver(w *world) {
	w.Helper()
	w.Skip("processes are stopped on Linux only")
}

func continueDriver(*world) {}

type fakeClock struct{}

func newFakeClock(w *world) *fakeClock {
	w.Helper()
	w.Skip("the clock is faked on Linux only")
	return nil
}

func (*fakeClock) jump(string) {}
