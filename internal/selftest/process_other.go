//go:build !unix

package selftest

// alive: the python engine does not run on this system.
func alive(int) bool { return false }

func suspend(int) error { return errNotRun{"processes cannot be suspended on this system"} }
