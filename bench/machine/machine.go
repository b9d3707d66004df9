// Package machine names what a measurement was made on: the processor and the commit.
package machine

import (
	"context"
	"os"
	"os/exec"
	"strings"
)

// Processor returns the model of the processor, or "unknown CPU".
func Processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // without it the model is unknown
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// Commit returns the commit that is checked out, and whether there are uncommitted changes. A file that git does not track,
// such as a result, is no change. Without git, or outside of a repository, the commit is "unknown".
func Commit(ctx context.Context) (commit string, changed bool) {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown", false
	}
	status, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no").Output()
	return strings.TrimSpace(string(out)), err == nil && len(status) > 0
}
