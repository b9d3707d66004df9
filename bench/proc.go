//go:build linux

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is a clock tick of /proc: USER_HZ is 100 on every architecture that Go
// runs on.
const tick = 10 * time.Millisecond

// slurp is a small file's text; "" where it cannot be read.
func slurp(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(data)
}

// kiloField is a "Name:   123 kB" line of text, in bytes; 0 without one.
func kiloField(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				return n << 10
			}
		}
	}
	return 0
}

// cpuOf is the CPU time that a live process has used, its own and the
// kernel's for it, to the nanosecond.
func cpuOf(pid int) (time.Duration, error) {
	// The kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// rssOf is what a live process has in memory, in bytes.
func rssOf(pid int) (int64, error) {
	n := kiloField(slurp(fmt.Sprintf("/proc/%d/status", pid)), "VmRSS")
	if n == 0 {
		return 0, fmt.Errorf("read the memory of process %d: it is gone", pid)
	}
	return n, nil
}

// ownCPU is the CPU time of this process, and of its children that have ended
// and were waited for.
func ownCPU() (own, ended time.Duration) {
	var u syscall.Rusage
	sum := func(who int) time.Duration {
		if syscall.Getrusage(who, &u) != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum(syscall.RUSAGE_SELF), sum(syscall.RUSAGE_CHILDREN)
}

// machineMeter measures how busy the machine is with what is not ours. Every
// child must have ended by the time that others is called.
type machineMeter struct {
	busy, total time.Duration
	ours        time.Duration
}

func startMachine() machineMeter {
	busy, total := machineCPU()
	own, ended := ownCPU()
	return machineMeter{busy, total, own + ended}
}

// others is the share of the machine that others used, 0 to 1.
func (m machineMeter) others() float64 {
	now := startMachine()
	if now.total <= m.total {
		return 0
	}
	busy := (now.busy - m.busy) - (now.ours - m.ours)
	return max(0, busy.Seconds()/(now.total-m.total).Seconds())
}

// machineCPU is how long all cores together were busy, and were there at all.
func machineCPU() (busy, total time.Duration) {
	line, _, _ := strings.Cut(slurp("/proc/stat"), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if i == 0 || i > 8 || err != nil { // "cpu"; guest time is in user time
			continue
		}
		total += time.Duration(n) * tick
		if i != 4 && i != 5 { // idle, waiting for the disk
			busy += time.Duration(n) * tick
		}
	}
	return busy, total
}

// kernelMemory is what the kernel has for sockets' data (pages of TCP), and
// for objects of all kinds (slab), in bytes, of the whole machine.
func kernelMemory() (tcp, slab int64) {
	for line := range strings.Lines(slurp("/proc/net/sockstat")) {
		f := strings.Fields(line)
		for i := range f {
			if f[0] == "TCP:" && f[i] == "mem" && i+1 < len(f) {
				pages, _ := strconv.ParseInt(f[i+1], 10, 64)
				tcp = pages * int64(os.Getpagesize())
			}
		}
	}
	return tcp, kiloField(slurp("/proc/meminfo"), "Slab")
}
