package bridge

import (
	"encoding/binary"
	"fmt"
)

// deepestFrame is how deep maps and arrays of a frame may lie in each other. A worker's messages have six levels.
const deepestFrame = 32

// checkNesting refuses msgpack whose maps and arrays lie too deep in each other: the decoder follows them by calling itself, and
// a program whose stack overflows ends, without a panic that could be caught. What else is wrong with a frame the decoder finds.
func checkNesting(data []byte) error {
	var left [deepestFrame]uint64 // values that are still to come, of each map or array that is open
	depth := 0
	for len(data) > 0 {
		values, skip := msgpackHead(data)
		data = data[min(skip, uint64(len(data))):]
		switch {
		case values == 0: // the value is whole; with it the ones may be that it is the last of
			for depth > 0 {
				if left[depth-1]--; left[depth-1] > 0 {
					break
				}
				depth--
			}
		case depth == deepestFrame:
			return fmt.Errorf("%w: values lie more than %d deep in each other", ErrFrame, deepestFrame)
		default:
			left[depth] = values
			depth++
		}
	}
	return nil
}

// msgpackHead reads the beginning of a value: how many values it holds, and after how many bytes the first of these, or the next value,
// comes.
func msgpackHead(data []byte) (values, skip uint64) {
	// size is a number of so many bytes after the first one.
	size := func(bytes int) uint64 {
		if len(data) <= bytes {
			return 0 // cut off: nothing follows
		}
		var number [8]byte
		copy(number[8-bytes:], data[1:1+bytes])
		return binary.BigEndian.Uint64(number[:])
	}
	switch c := data[0]; {
	case c >= 0x80 && c <= 0x8f: // a short map
		return 2 * uint64(c&0xf), 1
	case c >= 0x90 && c <= 0x9f: // a short array
		return uint64(c & 0xf), 1
	case c >= 0xa0 && c <= 0xbf: // a short text
		return 0, 1 + uint64(c&0x1f)
	case c >= 0xc4 && c <= 0xc6: // bytes
		bytes := 1 << (c - 0xc4)
		return 0, 1 + uint64(bytes) + size(bytes)
	case c >= 0xc7 && c <= 0xc9: // a type of one's own, of any length
		bytes := 1 << (c - 0xc7)
		return 0, 2 + uint64(bytes) + size(bytes)
	case c == 0xca || c == 0xcb: // floats
		return 0, 1 + 4<<(c-0xca)
	case c >= 0xcc && c <= 0xd3: // integers
		return 0, 1 + 1<<((c-0xcc)%4)
	case c >= 0xd4 && c <= 0xd8: // a type of one's own, of a power of two
		return 0, 2 + 1<<(c-0xd4)
	case c >= 0xd9 && c <= 0xdb: // texts
		bytes := 1 << (c - 0xd9)
		return 0, 1 + uint64(bytes) + size(bytes)
	case c == 0xdc || c == 0xdd: // arrays
		bytes := 2 << (c - 0xdc)
		return size(bytes), 1 + uint64(bytes)
	case c == 0xde || c == 0xdf: // maps
		bytes := 2 << (c - 0xde)
		return 2 * size(bytes), 1 + uint64(bytes)
	}
	return 0, 1 // small integers, nil, true, false
}
