//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package bridge

import (
	"os"
	"syscall"
)

// lockFolder waits until no other program, nor another goroutine of this one, has a folder locked, and locks it. The lock ends with unlock, or
// with the program. Some file systems of networks have no such locks: there nobody waits.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; err == syscall.EINTR; { //nolint:errorlint // as it comes from the system
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	return func() { _ = f.Close() }, nil // which unlocks it
}
