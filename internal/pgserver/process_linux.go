package pgserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

// isPostmaster tells whether the process is a server of the data directory. Its number alone does not: after a crash of
// the machine another process may have it, even one of the same user. A postmaster works in its data directory. A
// zombie (nobody reaps in many containers) has no directory, and is no server.
func isPostmaster(pid int, _ int64, data string) bool {
	if !exists(pid) {
		return false
	}
	if _, err := os.Stat("/proc/self"); err != nil {
		return true // no /proc: better to wait for a stranger than to start a second server
	}
	proc := fmt.Sprintf("/proc/%d", pid)
	cwd, err := os.Stat(proc + "/cwd")
	if errors.Is(err, os.ErrPermission) {
		// Another user's process; or ours, if the program may be executed but not read.
		line, _ := os.ReadFile(proc + "/cmdline")
		return bytes.Contains(line, append([]byte{0}, append([]byte(data), 0)...))
	}
	if err != nil {
		return false
	}
	dir, err := os.Stat(data)
	if err != nil || !os.SameFile(cwd, dir) {
		return false
	}
	// A person's shell may stand in the directory too.
	name, err := os.ReadFile(proc + "/comm")
	return err != nil || bytes.HasPrefix(name, []byte("post"))
}
