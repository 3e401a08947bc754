//go:build unix

package selftest

import "syscall"

// alive reports whether there is a process of that number.
func alive(pid int) bool { return pid > 0 && syscall.Kill(pid, 0) == nil }

// suspend stops a process as a debugger does: it lives and does nothing.
func suspend(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }
