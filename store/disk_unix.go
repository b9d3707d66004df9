//go:build linux || darwin || freebsd

package store

import "golang.org/x/sys/unix"

// freeBytes returns how many bytes an unprivileged process can still write under dir.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	for {
		err := unix.Statfs(dir, &s)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		return int64(s.Bavail) * int64(s.Bsize), nil
	}
}
