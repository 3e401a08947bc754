package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

const (
	maxCount  = 1 << 20 // of tensors and of metadata entries
	maxString = 1 << 27 // a whole tokenizer.json may be one, and Gemma 3's is 33 MB
	alignment = 32      // of the data, unless the metadata says otherwise
)

// sizes are the bytes of metadata values of fixed size, by type.
var sizes = map[uint32]int64{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

const (
	typeString = 8
	typeArray  = 9
)

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
