// Package gguf reads GGUF files: their metadata and tensors, as the checkpoint that they stand for. A file is checked against
// its size before anything is made of it, since it may be cut off, broken or hostile.
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/bits"
	"os"
	"strings"
)

// ErrMalformed is wrapped by every error about a file that breaks the format.
var ErrMalformed = errors.New("malformed GGUF file")

const (
	maxCount  = 1 << 20 // of tensors and of metadata entries
	maxString = 1 << 24 // a whole tokenizer.json may be one
	alignment = 32      // of the data, unless the metadata says otherwise
)

// sizes are the bytes of metadata values of fixed size, by type.
var sizes = map[uint32]int64{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

const (
	typeString = 8
	typeArray  = 9
)

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

// Header is what stands before the data.
type Header struct {
	// Metadata has int64, uint64 (only those beyond int64), float64, bool and string, and slices of them.
	Metadata map[string]any
	Tensors  []Tensor
}

// Outline is the header without what it says of the tokenizer: most of it is the vocabulary, which what opens the weights needs not.
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

// reader latches the first error and counts bytes.
type reader struct {
	r     *bufio.Reader
	at    int64
	size  int64
	err   error
	small [8]byte // what numbers are read into
	text  []byte  // what strings are read into

	dropped bool // the value that is read is not kept
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes. What a file claims is compared with what is left of it before memory is set aside.
func (r *reader) take(n int64) []byte { return r.into(nil, n) }

// into is take, into a buffer if that is large enough.
func (r *reader) into(data []byte, n int64) []byte {
	if r.err != nil {
		return nil
	}
	if n > r.size-r.at {
		r.fail("it is cut off at byte %d, copy it again", r.size)
		return nil
	}
	if int64(cap(data)) < n || data == nil {
		data = make([]byte, n)
	}
	data = data[:n]
	if _, err := io.ReadFull(r.r, data); err != nil {
		r.fail("it is cut off at byte %d, copy it again", r.at)
		return nil
	}
	r.at += n
	return data
}

func (r *reader) uint32() uint32 {
	if data := r.into(r.small[:], 4); data != nil {
		return binary.LittleEndian.Uint32(data)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if data := r.into(r.small[:], 8); data != nil {
		return binary.LittleEndian.Uint64(data)
	}
	return 0
}

// count reads a number of things of at least one byte each.
func (r *reader) count(what string, most uint64) uint64 {
	n := r.uint64()
	switch left := uint64(r.size - r.at); {
	case n > most:
		r.fail("%d %s", n, what)
		return 0
	case n > left:
		r.fail("%d %s, of which the file's last %d bytes cannot hold as many: it is cut off, copy it again", n, what, left)
		return 0
	}
	return n
}

func (r *reader) str() string {
	data := r.into(r.text, int64(r.count("bytes in a string", maxString)))
	if cap(data) > cap(r.text) {
		r.text = data
	}
	return string(data)
}

// value reads a metadata value; of lists there are none within lists.
func (r *reader) value(kind uint32) any {
	switch fixed := sizes[kind]; {
	case fixed > 0:
		return number(kind, r.into(r.small[:], fixed))
	case kind == typeString:
		return r.str()
	case kind == typeArray:
		item := r.uint32()
		n := r.count("values in a list", math.MaxInt64)
		if r.err != nil {
			return nil
		}
		return r.list(item, int64(n))
	}
	r.fail("metadata of type %d", kind)
	return nil
}

// strings reads a list of strings: the tokens of a vocabulary. Many share one piece of memory, which is quicker than one for each.
func (r *reader) strings(n int64) []string {
	room := min(n, (r.size-r.at)/8) // a string has its length in front of it
	if r.dropped {
		room = 0
	}
	out := make([]string, 0, room)
	var ends []int
	together := make([]byte, 0, 1<<16)
	flush := func() {
		text, begin := string(together), 0
		for _, end := range ends {
			out = append(out, text[begin:end])
			begin = end
		}
		together, ends = together[:0], ends[:0]
	}
	for range n {
		data := r.peekString()
		if data == nil {
			flush()
			text := r.str()
			if r.err != nil {
				return nil
			}
			if !r.dropped {
				out = append(out, text)
			}
			continue
		}
		if r.dropped {
			continue
		}
		if len(together)+len(data) > cap(together) {
			flush()
		}
		together = append(together, data...)
		ends = append(ends, len(together))
	}
	flush()
	return out
}

// peekString takes a short string out of the buffer. Of others, and where the file ends, it returns nil and takes nothing.
func (r *reader) peekString() []byte {
	head, err := r.r.Peek(8)
	if err != nil {
		return nil
	}
	n := binary.LittleEndian.Uint64(head)
	if n > 1<<12 || int64(n) > r.size-r.at-8 {
		return nil
	}
	data, err := r.r.Peek(int(8 + n))
	if err != nil {
		return nil
	}
	r.r.Discard(len(data)) // it is in the buffer
	r.at += int64(len(data))
	return data[8:]
}

func (r *reader) list(item uint32, n int64) any {
	if item == typeString {
		if out := r.strings(n); r.err == nil {
			return out
		}
		return nil
	}
	fixed := sizes[item]
	if fixed == 0 {
		r.fail("a list of values of type %d", item)
		return nil
	}
	if n > (r.size-r.at)/fixed {
		r.fail("it is cut off at byte %d, copy it again", r.size)
		return nil
	}
	data := r.take(n * fixed)
	if data == nil {
		return nil
	}
	switch number(item, data[:min(fixed, int64(len(data)))]).(type) {
	case float64:
		return items[float64](item, fixed, data)
	case bool:
		return items[bool](item, fixed, data)
	}
	return items[int64](item, fixed, data)
}

func items[T any](kind uint32, size int64, data []byte) []T {
	out := make([]T, int64(len(data))/size)
	if floats, ok := any(out).([]float64); ok && kind == 6 { // the scores of a vocabulary
		for i := range floats {
			floats[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		}
		return out
	}
	if ints, ok := any(out).([]int64); ok && kind == 5 { // the kinds of its tokens
		for i := range ints {
			ints[i] = int64(int32(binary.LittleEndian.Uint32(data[4*i:])))
		}
		return out
	}
	for i := range out {
		out[i], _ = number(kind, data[int64(i)*size:][:size]).(T)
	}
	return out
}

// number is a value of fixed size; nil where there are no bytes.
func number(kind uint32, b []byte) any {
	if len(b) == 0 {
		return nil
	}
	switch kind {
	case 0:
		return int64(b[0])
	case 1:
		return int64(int8(b[0]))
	case 2:
		return int64(binary.LittleEndian.Uint16(b))
	case 3:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case 4:
		return int64(binary.LittleEndian.Uint32(b))
	case 5:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	case 6:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case 7:
		return b[0] != 0
	case 12:
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	v := binary.LittleEndian.Uint64(b)
	if kind == 10 && v > math.MaxInt64 {
		return v
	}
	return int64(v)
}

// Parse reads the header of a file of the given size.
func Parse(from io.Reader, size int64) (*Header, error) { return parseHeader(from, size, false) }

func parseHeader(from io.Reader, size int64, outline bool) (*Header, error) {
	r := &reader{r: bufio.NewReaderSize(from, 1<<16), size: size}
	if magic := r.uint32(); r.err == nil && magic != 0x46554747 {
		r.fail("it does not begin with GGUF")
	}
	if version := r.uint32(); r.err == nil && version != 2 && version != 3 {
		r.fail("version %d; 2 and 3 are known", version)
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
		if align = given; align < 1 || align > 1<<20 {
			r.fail("alignment %d", align)
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
	return h, h.place(start, size)
}

// place makes offsets those in the file and checks that the data is there.
func (h *Header) place(start, size int64) error {
	names := map[string]bool{}
	for i := range h.Tensors {
		t := &h.Tensors[i]
		if names[t.Name] {
			return fmt.Errorf("%w: two tensors have the name %q", ErrMalformed, t.Name)
		}
		names[t.Name] = true
		if bytes := t.Bytes(); bytes > 0 && (t.Offset > size-start || bytes > size-start-t.Offset) {
			return fmt.Errorf("%w: tensor %q ends at byte %d of the data but the file holds %d: it is truncated, copy it again",
				ErrMalformed, t.Name, uint64(t.Offset)+uint64(bytes), max(size-start, 0))
		}
		t.Offset += start
	}
	return nil
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
