//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package bridge

// lockFolder does nothing: this system has no lock that a folder can have.
func lockFolder(string) (unlock func(), err error) { return func() {}, nil }
