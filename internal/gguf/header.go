// Package gguf reads GGUF files: their metadata and tensors, presented as a checkpoint in Hugging Face's form. A file is checked against
// its size before anything is made of it, since it may be cut off, broken or hostile.
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
package gguf

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/bits"
	"os"
	"slices"
	"strings"
)

// ErrMalformed is wrapped by every error about a file that breaks the format.
var ErrMalformed = errors.New("malformed GGUF file")

// Tensor is an entry of the header.
type Tensor struct {
	Name   string
	Shape  []int // outermost axis first, as everywhere but in GGUF itself
	Type   Type
	Offset int64 // in the file
	File   int   // which part of a split model holds it, from 0
}

// Elements is the number of values.
func (t Tensor) Elements() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= int64(d)
	}
	return n
}

// Bytes is the length of the data.
func (t Tensor) Bytes() int64 {
	l := layouts[t.Type]
	return t.Elements() / int64(l.values) * int64(l.bytes)
}

// Header is the part of a file before the data of its tensors.
type Header struct {
	// Metadata has int64, uint64 (only those beyond int64), float64, bool and string, and slices of them.
	Metadata map[string]any
	Tensors  []Tensor
}

// Outline is the header without the tokenizer, which is most of it: to open the weights the vocabulary is not needed.
func (h *Header) Outline() *Header {
	rest := maps.Clone(h.Metadata)
	maps.DeleteFunc(rest, func(key string, _ any) bool { return ofTokenizer(key) })
	return &Header{Metadata: rest, Tensors: h.Tensors}
}

func ofTokenizer(key string) bool { return strings.HasPrefix(key, "tokenizer.") }

// ReadHeader reads the header of a file and checks it against the file's size.
func ReadHeader(path string) (*Header, error) { return readHeader(path, false) }

// ReadOutline is ReadHeader for the Outline alone, and quicker.
func ReadOutline(path string) (*Header, error) { return readHeader(path, true) }

func readHeader(path string, outline bool) (*Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(f, stat.Size(), outline)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// Parse reads the header of a file of the given size.
func Parse(from io.Reader, size int64) (*Header, error) { return parseHeader(from, size, false) }

func parseHeader(from io.Reader, size int64, outline bool) (*Header, error) {
	r := &reader{r: bufio.NewReaderSize(from, 1<<16), size: size}
	if magic := r.uint32(); r.err == nil && magic != 0x46554747 {
		r.fail("it does not begin with GGUF")
	}
	switch version := r.uint32(); {
	case r.err != nil || version == 2 || version == 3:
	case version&0xffff == 0:
		r.fail("its numbers are big-endian: convert it with gguf-convert-endian FILE little (of the Python package gguf)")
	default:
		r.fail("version %d; 2 and 3 are known: get the model anew, or convert it with a llama.cpp of another version", version)
	}
	tensors := r.count("tensors", maxCount)
	h, keys := &Header{Metadata: map[string]any{}}, map[string]bool{}
	for range r.count("metadata entries", maxCount) {
		key := r.str()
		if keys[key] {
			r.fail("two metadata entries have the name %q", key)
		}
		keys[key] = true
		r.dropped = outline && ofTokenizer(key)
		value := r.value(r.uint32())
		if r.err != nil {
			return nil, r.err
		}
		if !r.dropped {
			h.Metadata[key] = value
		}
	}
	if err := h.checkKinds("", fileKinds); err != nil {
		return nil, err
	}
	align := int64(alignment)
	if given, ok := h.Metadata["general.alignment"].(int64); ok {
		if align = given; align < 1 || align > 1<<20 || align&(align-1) != 0 {
			r.fail("general.alignment is %d and should be a power of two up to %d", align, 1<<20)
			return nil, r.err
		}
	}
	for range tensors {
		h.Tensors = append(h.Tensors, r.tensor())
		if r.err != nil {
			return nil, r.err
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	start := (r.at + align - 1) / align * align
	return h, h.place(start, size, align)
}

// place makes offsets those in the file and checks that the data is there, each tensor's its own.
func (h *Header) place(start, size, align int64) error {
	names := map[string]bool{}
	for i := range h.Tensors {
		t := &h.Tensors[i]
		if names[t.Name] {
			return fmt.Errorf("%w: two tensors have the name %q", ErrMalformed, t.Name)
		}
		names[t.Name] = true
		switch bytes := t.Bytes(); {
		case bytes > 0 && (t.Offset > size-start || bytes > size-start-t.Offset):
			return fmt.Errorf("%w: tensor %q ends at byte %d of the data but the file holds %d: it is truncated, copy it again",
				ErrMalformed, t.Name, uint64(t.Offset)+uint64(bytes), max(size-start, 0))
		case t.Offset%align != 0:
			return fmt.Errorf("%w: tensor %q begins at byte %d of the data, which is no multiple of the alignment %d", ErrMalformed, t.Name, t.Offset, align)
		}
		t.Offset += start
	}
	var last *Tensor
	for _, i := range h.byOffset() {
		t := &h.Tensors[i]
		if last != nil && t.Offset < last.Offset+last.Bytes() {
			return fmt.Errorf("%w: tensors %q and %q have bytes in common", ErrMalformed, last.Name, t.Name)
		}
		last = t
	}
	return nil
}

// byOffset are the places of the tensors that have bytes, in the order in which they lie.
func (h *Header) byOffset() []int {
	var order []int
	for i, t := range h.Tensors {
		if t.Bytes() > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(h.Tensors[a].Offset, h.Tensors[b].Offset) })
	return order
}

// tensor reads an entry; its offset counts from the start of the data.
func (r *reader) tensor() Tensor {
	t := Tensor{Name: r.str()}
	axes := r.uint32()
	if axes > 4 {
		r.fail("tensor %q has %d axes", t.Name, axes)
	}
	if r.err != nil {
		return t // or a false number would be counted up to
	}
	elements, innermost := uint64(1), uint64(1)
	t.Shape = make([]int, axes)
	for i := range t.Shape {
		d := r.uint64()
		hi, lo := bits.Mul64(elements, d)
		if elements = lo; hi != 0 || d > math.MaxInt32 || elements > math.MaxInt64/8 {
			r.fail("tensor %q is too large", t.Name)
			return t
		}
		if i == 0 {
			innermost = d
		}
		t.Shape[len(t.Shape)-1-i] = int(d)
	}
	t.Type = Type(r.uint32())
	offset := r.uint64()
	if r.err != nil {
		return t
	}
	layout, known := layouts[t.Type]
	switch {
	case !known:
		r.err = &TypeError{Tensor: t.Name, Type: t.Type}
	case innermost%uint64(layout.values) != 0:
		r.fail("tensor %q: rows of %d values in blocks of %d", t.Name, innermost, layout.values)
	case offset > math.MaxInt64/2:
		r.fail("tensor %q begins at byte %d", t.Name, offset)
	}
	t.Offset = int64(offset)
	return t
}
