package powercut

import "golang.org/x/sys/unix"

// archChanges are system calls that other processors do not have.
var archChanges = []uint32{unix.SYS_RENAME, unix.SYS_UNLINK}
