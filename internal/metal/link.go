//go:build !pkgconfig

package metal

/*
#cgo CFLAGS: -I${SRCDIR}/../../build/include
#cgo LDFLAGS: -L${SRCDIR}/../../build/lib -lmlxc -Wl,-rpath,${SRCDIR}/../../build/lib
*/
import "C"
