// Package gguf checks GGUF files before MLX reads them: the library that MLX uses trusts what a file says of
// itself, and a truncated one would be read beyond its end.
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
)

// ErrMalformed is wrapped by every error about a file's contents.
var ErrMalformed = errors.New("malformed GGUF file")

const (
	maxCount  = 1 << 20 // of tensors and of metadata entries
	maxString = 1 << 20
	alignment = 32 // of the data, unless the metadata says otherwise
)

// layouts are the types of tensors: how many values a block has, and how many bytes.
var layouts = map[uint32]struct{ values, bytes uint64 }{
	0: {1, 4}, 1: {1, 2}, 2: {32, 18}, 3: {32, 20}, 6: {32, 22}, 7: {32, 24}, 8: {32, 34}, 9: {32, 36},
	10: {256, 84}, 11: {256, 110}, 12: {256, 144}, 13: {256, 176}, 14: {256, 210}, 15: {256, 292},
	24: {1, 1}, 25: {1, 2}, 26: {1, 4}, 27: {1, 8}, 28: {1, 8}, 30: {1, 2},
}

// sizes are the bytes of metadata values of fixed size, by type.
var sizes = map[uint32]int64{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

const (
	typeUint32 = 4
	typeString = 8
	typeArray  = 9
)

// CheckFile reads the header of a file and checks it against the file's size.
func CheckFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	if err := Check(f, stat.Size()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// reader latches the first error and counts bytes.
type reader struct {
	r   *bufio.Reader
	at  int64
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

func read[T uint32 | uint64](r *reader) (v T) {
	if r.err != nil {
		return 0
	}
	if err := binary.Read(r.r, binary.LittleEndian, &v); err != nil {
		r.fail("cut off at byte %d", r.at)
		return 0
	}
	r.at += int64(binary.Size(v))
	return v
}

// count reads a number of things of at least one byte each.
func (r *reader) count(what string, most uint64) uint64 {
	n := read[uint64](r)
	if n > most {
		r.fail("%d %s", n, what)
		return 0
	}
	return n
}

func (r *reader) skip(n int64) {
	if r.err != nil {
		return
	}
	skipped, err := io.CopyN(io.Discard, r.r, n)
	if r.at += skipped; err != nil {
		r.fail("cut off at byte %d", r.at)
	}
}

func (r *reader) str() string {
	data := make([]byte, r.count("bytes in a string", maxString))
	if r.err != nil {
		return ""
	}
	n, err := io.ReadFull(r.r, data)
	if r.at += int64(n); err != nil {
		r.fail("cut off at byte %d", r.at)
	}
	return string(data)
}

// value passes over a metadata value; of arrays there are none within arrays.
func (r *reader) value(kind uint32, nested bool, size uint64) {
	switch fixed := sizes[kind]; {
	case fixed > 0:
		r.skip(fixed)
	case kind == typeString:
		r.str()
	case kind == typeArray && !nested:
		item := read[uint32](r)
		n := r.count("values in a list", size)
		if fixed := sizes[item]; fixed > 0 {
			r.skip(int64(n) * fixed)
			return
		}
		for range n {
			if r.value(item, true, size); r.err != nil {
				return
			}
		}
	default:
		r.fail("metadata of type %d", kind)
	}
}

// Check reads the header of a file of the given size.
func Check(from io.Reader, size int64) error {
	r := &reader{r: bufio.NewReaderSize(from, 1<<16)}
	if magic := read[uint32](r); r.err == nil && magic != 0x46554747 {
		r.fail("it does not begin with GGUF")
	}
	if version := read[uint32](r); r.err == nil && version != 2 && version != 3 {
		r.fail("version %d; 2 and 3 are known", version)
	}
	tensors := r.count("tensors", maxCount)
	align := int64(alignment)
	for range r.count("metadata entries", maxCount) {
		key := r.str()
		kind := read[uint32](r)
		if key == "general.alignment" && kind == typeUint32 {
			if align = int64(read[uint32](r)); align < 1 || align > 1<<20 {
				r.fail("alignment %d", align)
			}
		} else {
			r.value(kind, false, uint64(size))
		}
		if r.err != nil {
			return r.err
		}
	}
	type extent struct {
		name  string
		end   uint64
		bytes uint64
	}
	var extents []extent
	for range tensors {
		name := r.str()
		axes := read[uint32](r)
		if axes > 4 {
			r.fail("tensor %q has %d axes", name, axes)
			return r.err // or a false number would be counted up to
		}
		elements := uint64(1)
		for range axes {
			hi, lo := bits.Mul64(elements, read[uint64](r))
			if elements = lo; hi != 0 {
				r.fail("tensor %q is too large", name)
			}
		}
		kind := read[uint32](r)
		offset := read[uint64](r)
		layout, known := layouts[kind]
		if r.err == nil && !known {
			r.fail("tensor %q has the unknown type %d", name, kind)
		}
		if r.err != nil {
			return r.err
		}
		hi, bytes := bits.Mul64((elements+layout.values-1)/layout.values, layout.bytes)
		end, carry := bits.Add64(offset, bytes, 0)
		if hi != 0 || carry != 0 || elements%layout.values != 0 {
			r.fail("tensor %q: %d values in blocks of %d at byte %d", name, elements, layout.values, offset)
			return r.err
		}
		extents = append(extents, extent{name, end, bytes})
	}
	if r.err != nil {
		return r.err
	}
	available := size - (r.at+align-1)/align*align
	for _, e := range extents {
		if e.bytes > 0 && (available < 0 || e.end > uint64(available)) {
			r.fail("tensor %q ends at byte %d of the data but the file holds %d: it is truncated, copy it again", e.name, e.end, max(available, 0))
		}
	}
	return r.err
}
