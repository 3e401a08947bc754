//go:build !pkgconfig

package mlxc

/*
#cgo CFLAGS: -I${SRCDIR}/../../build/include
#cgo LDFLAGS: -L${SRCDIR}/../../build/lib -lgomlx_kernels -lmlxc -Wl,-rpath,${SRCDIR}/../../build/lib
*/
import "C"
