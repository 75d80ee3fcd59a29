package pgserver

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is what can be seen of a home's server at one moment.
type server struct {
	pid      int    // from postmaster.pid; 0: there is no such file
	alive    bool   // pid is a postmaster of this home's data, not another process that got its number
	started  int64  // when, in Unix seconds
	socket   string // folder of the socket
	ready    bool   // it says that it accepts connections
	stopping bool   // it, or somebody who began to stop it, says that it is going away
}

// probe looks; it changes nothing.
func (l layout) probe() (server, error) {
	text, err := os.ReadFile(l.pidfile())
	if errors.Is(err, os.ErrNotExist) {
		return server{}, nil
	}
	if err != nil {
		return server{}, err
	}
	s := parsePidfile(string(text))
	if s.pid == 0 {
		return s, nil
	}
	s.alive = isPostmaster(s.pid, s.started, l.data())
	if mark, err := os.ReadFile(l.stopping()); err == nil && strings.TrimSpace(string(mark)) == strconv.Itoa(s.pid) {
		s.stopping = true
	}
	return s, nil
}

// parsePidfile reads postmaster.pid: process, data directory, start time, port, socket folder, listen address, shared
// memory, status, a line each. The server writes the later lines as it gets there.
func parsePidfile(text string) server {
	line := strings.Split(text, "\n")
	at := func(i int) string {
		if i < len(line) {
			return strings.TrimSpace(line[i])
		}
		return ""
	}
	var s server
	// A negative number is a stand-alone backend.
	pid, err := strconv.Atoi(at(0))
	if err != nil || pid < 0 {
		pid = -pid
	}
	s.pid = pid
	s.started, _ = strconv.ParseInt(at(2), 10, 64)
	if len(line) > 4 {
		s.socket = line[4]
	}
	s.ready = at(7) == "ready"
	s.stopping = at(7) == "stopping"
	return s
}

// answers tells whether somebody listens at the socket.
func (s server) answers() bool {
	if s.socket == "" {
		return false
	}
	conn, err := net.DialTimeout("unix", socketFile(s.socket), time.Second)
	if err != nil {
		// A full queue of connections is a sign of life.
		return s.alive && errors.Is(err, syscall.EAGAIN)
	}
	defer conn.Close()
	if s.alive {
		return true
	}
	// The socket of a process that is not seen may be the last thing left of one that was killed just now: the kernel
	// still takes the connection. So it has to say a word: N, to the protocol's question whether it speaks TLS.
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := conn.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}); err != nil {
		return false
	}
	word := make([]byte, 1)
	n, err := conn.Read(word)
	return n == 1 && err == nil
}

// usable tells whether a client may connect now. A server that is not seen but answers runs in another container that
// shares the home: it is as good, but it cannot be stopped from here.
func (s server) usable() bool {
	return s.pid != 0 && s.ready && !s.stopping && s.answers()
}

func exists(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
