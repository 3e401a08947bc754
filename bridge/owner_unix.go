//go:build unix

package bridge

import (
	"fmt"
	"os"
	"syscall"
)

// onlyOurs returns an error if somebody else than the user, or root, could have put things into a folder.
func onlyOurs(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	return checkOwner(dir, info)
}

// checkOwner returns an error if somebody else than the user, or root, could change a file or what is in a folder.
func checkOwner(path string, info os.FileInfo) error {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) != os.Getuid() && owner.Uid != 0 {
		return fmt.Errorf("%s belongs to another user; remove it, or set HOME to a folder of your own", path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s can be written by others: run `chmod go-w %s`", path, path)
	}
	return nil
}
