//go:build !linux && !darwin && !freebsd

package store

// dirLock does nothing on this system: Badger locks the directory when it opens it.
type dirLock struct{}

func lockDir(string) (*dirLock, error) { return nil, nil }

func (l *dirLock) held() bool { return false }

func (l *dirLock) release() error { return nil }

func (l *dirLock) sameDir() bool { return true }
