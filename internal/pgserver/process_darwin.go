package pgserver

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// isPostmaster tells whether the process is the server that wrote postmaster.pid. Its number alone does not: after a
// crash of the machine another process may have it. The name and the time of the start do.
func isPostmaster(pid int, started int64, _ string) bool {
	if !exists(pid) {
		return false
	}
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return false
	}
	const zombie = 5 // SZOMB in <sys/proc.h>
	if info.Proc.P_stat == zombie || !bytes.HasPrefix(info.Proc.P_comm[:], []byte("post")) {
		return false
	}
	// Both are the wall clock's; a minute is far more than lies between fork and pid file, far less than a reboot takes
	// to give the same number to another PostgreSQL of this user.
	diff := info.Proc.P_starttime.Sec - started
	return started == 0 || diff > -60 && diff < 60
}
