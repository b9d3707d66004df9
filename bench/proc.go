//go:build linux

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is one clock tick of /proc. USER_HZ is 100 on every architecture that Go
// supports.
const tick = 10 * time.Millisecond

// readText returns the text of a small file, or "" if the file cannot be read.
func readText(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(data)
}

// kiloField returns the value of a line "Name:   123 kB" of text, in bytes. It returns
// 0 if there is no such line.
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

// rssOf returns the resident memory of a live process, in bytes.
func rssOf(pid int) (int64, error) {
	n := kiloField(readText(fmt.Sprintf("/proc/%d/status", pid)), "VmRSS")
	if n == 0 {
		return 0, fmt.Errorf("read the memory of process %d: it is gone", pid)
	}
	return n, nil
}

// ownCPU returns the CPU time of this process, and that of its children that have
// ended and were waited for.
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

// machineMeter measures how much CPU other processes of the machine use. Every child
// must have ended before others is called.
type machineMeter struct {
	busy, total time.Duration
	ours        time.Duration
}

func startMachine() machineMeter {
	busy, total := machineCPU()
	own, ended := ownCPU()
	return machineMeter{busy, total, own + ended}
}

// others returns the share of the machine that other processes used, from 0 to 1.
func (m machineMeter) others() float64 {
	now := startMachine()
	if now.total <= m.total {
		return 0
	}
	busy := (now.busy - m.busy) - (now.ours - m.ours)
	return max(0, busy.Seconds()/(now.total-m.total).Seconds())
}

// machineCPU returns the busy time and the total time of all cores together.
func machineCPU() (busy, total time.Duration) {
	line, _, _ := strings.Cut(readText("/proc/stat"), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if i == 0 || i > 8 || err != nil { // skips "cpu" and guest time, which user time includes
			continue
		}
		total += time.Duration(n) * tick
		if i != 4 && i != 5 { // idle time and time that waits for the disk
			busy += time.Duration(n) * tick
		}
	}
	return busy, total
}

// kernelMemory returns the kernel's memory of the whole machine, in bytes: the data of
// TCP sockets (whole pages), and kernel objects of all kinds (slab).
func kernelMemory() (tcp, slab int64) {
	for line := range strings.Lines(readText("/proc/net/sockstat")) {
		f := strings.Fields(line)
		for i := range f {
			if f[0] == "TCP:" && f[i] == "mem" && i+1 < len(f) {
				pages, _ := strconv.ParseInt(f[i+1], 10, 64)
				tcp = pages * int64(os.Getpagesize())
			}
		}
	}
	return tcp, kiloField(readText("/proc/meminfo"), "Slab")
}
