package gguf

import "encoding/binary"

// pieces finds short texts by their bytes. Deriving the merges of a large vocabulary looks up millions of pieces of tokens, nearly
// all of eight bytes or less: those are their own keys here, and one lookup touches one place in memory where a map of strings
// touches three.
type pieces struct {
	slots []slot // a power of two of them, at most half full
	long  map[string]int32
}

type slot struct {
	key uint64
	len uint8 // 0 for an empty slot
	id  int32
}

func newPieces(n int) *pieces {
	size := 16
	for size < 2*n {
		size *= 2
	}
	return &pieces{slots: make([]slot, size), long: map[string]int32{}}
}

// keyOf is the bytes of a text of at most eight.
func keyOf(text string) uint64 {
	var key [8]byte
	copy(key[:], text)
	return binary.LittleEndian.Uint64(key[:])
}

// find is the slot of a key, or the empty one where it belongs.
func (p *pieces) find(key uint64, length int) *slot {
	mask := uint64(len(p.slots) - 1)
	for at := (key ^ key>>29) * 0x9e3779b97f4a7c15 >> 32 & mask; ; at = (at + 1) & mask {
		if s := &p.slots[at]; s.len == 0 || s.key == key && int(s.len) == length {
			return s
		}
	}
}

// add names a text, which is not empty and not there yet. No more than newPieces was told of are added.
func (p *pieces) add(text string, id int) {
	if len(text) > 8 {
		p.long[text] = int32(id)
		return
	}
	key := keyOf(text)
	*p.find(key, len(text)) = slot{key, uint8(len(text)), int32(id)}
}

// get is the id of a text.
func (p *pieces) get(text string) (id int, ok bool) {
	if len(text) > 8 {
		id, ok := p.long[text]
		return int(id), ok
	}
	s := p.find(keyOf(text), len(text))
	return int(s.id), s.len > 0 && len(text) > 0
}
