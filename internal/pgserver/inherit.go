package pgserver

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// closeInherited marks every descriptor of this process but the first three to be closed in its children. Go does that
// for what it opens; what our caller left open (a pipe that somebody reads to its end, a build's job server) would stay
// open in the server, and its reader would wait as long as the server runs.
func closeInherited() {
	for _, fd := range descriptors() {
		// One that is gone by now, or another file's by now, does no harm: Go's own are all marked.
		if fd > 2 {
			_, _ = unix.FcntlInt(uintptr(fd), syscall.F_SETFD, syscall.FD_CLOEXEC)
		}
	}
}

func descriptors() []int {
	var fds []int
	if entries, err := os.ReadDir("/dev/fd"); err == nil { // on Linux a link to /proc/self/fd
		for _, e := range entries {
			if fd, err := strconv.Atoi(e.Name()); err == nil {
				fds = append(fds, fd)
			}
		}
		return fds
	}
	for fd := range 1024 { // a shell hands down low numbers
		fds = append(fds, fd)
	}
	return fds
}
