//go:build linux && (amd64 || arm64)

package powercut

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// answerFD is the file descriptor of the child to which it writes its answers.
const answerFD = 3

// syncs are the system calls that make files durable, changes those after which the
// directory may be another one.
var (
	syncs   = []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_MSYNC}
	changes = append([]uint32{unix.SYS_FTRUNCATE, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT}, archChanges...)
)

// stopAtSyscalls makes every thread of this process stop for its tracer at the recorded
// system calls.
func stopAtSyscalls() error {
	trace := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	// unless skips n instructions unless the loaded word is k.
	unless := func(k uint32, n uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: n, K: k}
	}
	const number, firstArg, thirdArg = 0, 16, 32 // in struct seccomp_data, little-endian
	program := []unix.SockFilter{load(number)}
	for _, nr := range append(append([]uint32(nil), syncs...), changes...) {
		program = append(program, unless(nr, 1), trace)
	}
	program = append(program,
		unless(unix.SYS_WRITE, 3), load(firstArg), unless(answerFD, 1), trace,
		load(number),
		unless(unix.SYS_OPENAT, 3), load(thirdArg),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: unix.O_CREAT}, trace,
		allow)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("install the filter of system calls: %w", errno)
	}
	return nil
}

// recorder follows one child after the other and records what becomes of a directory.
type recorder struct {
	t    *testing.T
	dir  string
	disk *disk

	answers int    // file descriptor of the child's answers; reads of it do not wait
	partial []byte // of an answer
	inSync  map[int]pendingSync
}

// pendingSync is a sync that has begun.
type pendingSync struct {
	file  *file // nil: the directory
	began int   // event
}

// record runs a child with an environment variable until it ends by itself, and adds
// what it does to the recording. It skips the test where processes cannot be traced.
func (r *recorder) record(env string) {
	r.t.Helper()
	// Only the thread that started the child may trace it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	write := os.NewFile(uintptr(pipe[1]), "answers")
	r.answers, r.inSync = pipe[0], map[int]pendingSync{}
	var output bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env)
	out, err := os.Create(filepath.Join(r.t.TempDir(), "output"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		_ = write.Close()
		r.t.Skipf("processes cannot be traced here: %v", err)
	}
	_ = write.Close()
	status := r.follow(cmd.Process.Pid)
	_, _ = out.Seek(0, io.SeekStart)
	_, _ = io.Copy(&output, bufio.NewReader(out))
	switch {
	case strings.Contains(output.String(), noSeccomp):
		r.t.Skip(output.String())
	case !status.Exited() || status.ExitStatus() != 0:
		r.t.Fatalf("the child ended with %x:\n%s", status, output.String())
	}
}

// follow resumes the child at each stop until it ends.
func (r *recorder) follow(pid int) unix.WaitStatus {
	r.t.Helper()
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		r.t.Fatal(err)
	}
	options := unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESECCOMP
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.PtraceCont(pid, 0); err != nil {
		r.t.Fatal(err)
	}
	for {
		thread, err := unix.Wait4(-1, &status, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if status.Exited() || status.Signaled() {
			if thread == pid {
				return status
			}
			continue
		}
		err = r.stopped(thread, status)
		if err != nil && !errors.Is(err, unix.ESRCH) { // the thread was ended meanwhile
			r.t.Fatal(err)
		}
	}
}

// stopped handles a stop of a thread and resumes the thread.
func (r *recorder) stopped(thread int, status unix.WaitStatus) error {
	switch signal := status.StopSignal(); {
	case status>>8 == unix.WaitStatus(unix.SIGTRAP|unix.PTRACE_EVENT_SECCOMP<<8):
		return r.begins(thread)
	case signal == unix.SIGTRAP|0x80:
		r.ended(thread)
		return unix.PtraceCont(thread, 0)
	case signal == unix.SIGTRAP, signal == unix.SIGSTOP: // of ptrace itself
		return unix.PtraceCont(thread, 0)
	default:
		return unix.PtraceCont(thread, int(signal))
	}
}

// syscallInfo is struct ptrace_syscall_info of a stop at seccomp.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	_    [2]uint64 // instruction and stack pointer
	nr   uint64
	args [6]uint64
	_    uint64
}

// begins handles the beginning of a recorded system call.
func (r *recorder) begins(thread int) error {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return errno
	}
	for _, nr := range syncs {
		if uint64(nr) != info.nr {
			continue
		}
		path := r.argument(thread, info)
		if path == r.dir {
			r.inSync[thread] = pendingSync{began: r.snapshot()}
		} else if filepath.Dir(path) == r.dir {
			event := r.snapshot()
			if f := r.disk.byName(filepath.Base(path)); f != nil {
				r.inSync[thread] = pendingSync{file: f, began: event}
			}
		}
	}
	// The stop after the system call comes next.
	return unix.PtraceSyscall(thread, 0)
}

// ended handles the end of a recorded system call.
func (r *recorder) ended(thread int) {
	event := r.snapshot()
	if s, ok := r.inSync[thread]; ok {
		delete(r.inSync, thread)
		r.disk.synced(s.file, s.began, event)
	}
	var buf [64 << 10]byte
	for {
		n, err := unix.Read(r.answers, buf[:])
		if n <= 0 || err != nil {
			break
		}
		r.partial = append(r.partial, buf[:n]...)
	}
	for {
		line, rest, ok := bytes.Cut(r.partial, []byte("\n"))
		if !ok {
			return
		}
		r.disk.answers = append(r.disk.answers, answer{event, string(line)})
		r.partial = rest
	}
}

// argument returns the path of the file that a system call is about.
func (r *recorder) argument(thread int, info syscallInfo) string {
	if info.nr != unix.SYS_MSYNC {
		path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, int32(info.args[0])))
		return path
	}
	maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", thread))
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err == nil && from <= info.args[0] && info.args[0] < to {
			_, path, _ := strings.Cut(line, "/")
			return "/" + strings.TrimSpace(path)
		}
	}
	return ""
}

// snapshot adds the files as they are now to the recording, and returns the event's number.
func (r *recorder) snapshot() int {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.disk.begin()
	for _, e := range entries {
		f, err := os.Open(filepath.Join(r.dir, e.Name()))
		if err != nil {
			continue // it was deleted meanwhile
		}
		r.disk.saw(e.Name(), identity(f), f)
		_ = f.Close()
	}
	return r.disk.end()
}

// identity returns what tells a file from all others, also from one that gets the same
// inode later.
func identity(f *os.File) string {
	var stat unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &stat); err != nil {
		return f.Name()
	}
	b := binary.NativeEndian.AppendUint64(nil, stat.Ino)
	b = binary.NativeEndian.AppendUint64(b, uint64(stat.Btime.Sec))
	return string(binary.NativeEndian.AppendUint32(b, stat.Btime.Nsec))
}
