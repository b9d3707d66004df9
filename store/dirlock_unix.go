//go:build linux || darwin || freebsd

package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pidFile names the process that holds the lock. The name is Badger's own, so that its
// tools and imgo see one another.
const pidFile = "LOCK"

// dirLock is the exclusive flock of a data directory, the same that Badger takes. It is
// taken here so that the files can be checked under it. The kernel releases it when the
// process ends, however that happens.
type dirLock struct{ dir *os.File }

// lockDir takes the lock, or returns an error that names the process that holds it.
func lockDir(dir string) (*dirLock, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
		}
		holder := "another process"
		if b, rerr := os.ReadFile(filepath.Join(dir, pidFile)); rerr == nil {
			if pid, perr := strconv.Atoi(strings.TrimSpace(string(b))); perr == nil {
				holder = fmt.Sprintf("process %d", pid)
			}
		}
		return nil, fmt.Errorf("data directory %s is in use: %s holds its lock (flock on the directory; %s names the process); "+
			"stop that process, or name another directory with --data-dir", dir, holder, filepath.Join(dir, pidFile))
	}
	if err := os.WriteFile(filepath.Join(dir, pidFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write the process id into data directory %s: %w", dir, err)
	}
	return &dirLock{dir: f}, nil
}

// sameDir reports whether the locked directory still has its path.
func (l *dirLock) sameDir() bool {
	if l == nil || l.dir == nil {
		return true
	}
	locked, err := l.dir.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(l.dir.Name())
	return err == nil && os.SameFile(locked, now) || err != nil && !errors.Is(err, os.ErrNotExist)
}

// held reports whether Badger need not lock the directory.
func (l *dirLock) held() bool { return l != nil }

// release unlocks the directory. It removes the process id first, while the directory is
// still locked.
func (l *dirLock) release() error {
	if l == nil || l.dir == nil {
		return nil
	}
	err := os.Remove(filepath.Join(l.dir.Name(), pidFile))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, l.dir.Close())
	l.dir = nil
	return err
}
