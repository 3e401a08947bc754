//go:build !pkgconfig

package tokenizer

/*
#cgo LDFLAGS: -L${SRCDIR}/../../build/lib -lgomlx_tokenizer
#cgo linux LDFLAGS: -lm -ldl -lpthread
#cgo darwin LDFLAGS: -framework CoreFoundation
*/
import "C"
