package gguf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// ErrUnsupported is wrapped by errors about files that keep to the format and hold something that is not known here.
var ErrUnsupported = errors.New("not supported")

// Checkpoint presents a GGUF file as a safetensors checkpoint with Hugging Face's names: tensors are
// converted when they are read, with what llama.cpp changed (order of rotated rows, norms plus one) changed back. It is safe for
// concurrent use.
type Checkpoint struct {
	Path string
	*Header
	// DType is the type of weights that are not packed, by safetensors' name.
	DType string
	// Tensors by name, with offsets in the virtual file's data.
	Virtual map[string]safetensors.Tensor

	files   []*os.File // one, or the parts of a split model in order
	arch    *family
	parts   map[string]part // by virtual name
	order   []string        // of virtual names, by offset
	header  []byte          // of the virtual file, with its length
	encoded int64           // bytes of data

	mu    sync.Mutex        // guards made and given
	made  map[string][]byte // scales and biases that were made along with another part of their matrix, until they are asked for
	given map[string]bool   // those that were asked for already
}

// part is what a virtual tensor is made of.
type part struct {
	source Tensor
	kind   partKind
	form   form    // of packed parts
	heads  int     // of rotated rows, 0 for rows in order
	minus  float32 // subtracted from every value
}

type partKind int

const (
	plain partKind = iota
	packedWeight
	packedScales
	packedBiases
)

// Open reads the header of a file and arranges its tensors. Of a split model, path is the first part. The caller closes the checkpoint.
func Open(path string, packing Packing) (*Checkpoint, error) {
	h, err := ReadHeader(path)
	if err != nil {
		return nil, err
	}
	return OpenHeader(path, h, packing)
}

// OpenHeader is Open for a file whose header was read already; the header stays as it is.
func OpenHeader(path string, read *Header, packing Packing) (_ *Checkpoint, err error) {
	h := &Header{Metadata: read.Metadata, Tensors: slices.Clone(read.Tensors)} // parts add tensors to it
	c := &Checkpoint{Path: path, Header: h}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.arch, err = familyOf(h); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := h.checkArchitecture(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	paths, err := partsOf(path, h)
	if err != nil {
		return nil, err
	}
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		c.files = append(c.files, f)
		if i == 0 {
			continue
		}
		more, err := laterPart(path, h, i)
		if err != nil {
			return nil, err
		}
		for _, t := range more.Tensors {
			t.File = i
			h.Tensors = append(h.Tensors, t)
		}
	}
	if all, said := h.Metadata["split.tensors.count"].(int64); said && len(paths) > 1 && all != int64(len(h.Tensors)) {
		return nil, fmt.Errorf("%w: %s says that its %d parts have %d tensors, and they have %d: they are not of one model, copy them again",
			ErrMalformed, path, len(paths), all, len(h.Tensors))
	}
	if err := c.arrange(packing); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Close closes the files.
func (c *Checkpoint) Close() error {
	if c == nil {
		return nil
	}
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	c.files = nil
	return errors.Join(errs...)
}

// arrange lays the virtual file out.
func (c *Checkpoint) arrange(packing Packing) error {
	exact := packing != Plain && c.exact()
	c.DType = c.dtype(exact)
	c.Virtual, c.parts = map[string]safetensors.Tensor{}, map[string]part{}
	width := int64(2)
	if c.DType == "F32" {
		width = 4
	}
	add := func(name, dtype string, shape []int, bytes int64, p part) error {
		if _, taken := c.Virtual[name]; taken {
			return fmt.Errorf("%w: two tensors stand for %q", ErrMalformed, name)
		}
		c.Virtual[name] = safetensors.Tensor{DType: dtype, Shape: shape, Offset: [2]int64{c.encoded, c.encoded + bytes}}
		c.parts[name] = p
		c.order = append(c.order, name)
		c.encoded += bytes
		return nil
	}
	for _, t := range c.Header.Tensors {
		if t.Name == ropeFactors { // is in the config
			continue
		}
		if unpackerOf(t.Type) == nil {
			return &TypeError{Tensor: t.Name, Type: t.Type}
		}
		name := c.arch.name(t.Name)
		p := part{source: t, heads: c.arch.rotated(c.Header, t.Name)}
		if rows := t.rows(p.heads); p.heads > 0 && rows%(2*p.heads) != 0 {
			return fmt.Errorf("%w: tensor %q has %d rows for %d heads", ErrMalformed, t.Name, rows, p.heads)
		}
		if c.arch.normPlusOne && strings.HasSuffix(t.Name, "norm.weight") {
			p.minus = 1
		}
		f, packed := forms[t.Type]
		packed = packed && (packing == ForKernels || exact)
		stem, isWeight := strings.CutSuffix(name, ".weight")
		if !packed || !isWeight || len(t.Shape) != 2 {
			if err := add(name, c.DType, t.Shape, t.Elements()*width, p); err != nil {
				return err
			}
			continue
		}
		p.form = f
		rows, groups := t.Shape[0], t.Shape[1]/f.group
		packedPart := func(name string, kind partKind, dtype string, columns, size int) error {
			p.kind = kind
			return add(name, dtype, []int{rows, columns}, int64(rows)*int64(columns)*int64(size), p)
		}
		size := 2
		if f.wide {
			size = 4
		}
		err := errors.Join(packedPart(name, packedWeight, "U32", t.Shape[1]*f.bits/32, 4), packedPart(stem+".scales", packedScales, f.scaleType(), groups, size))
		if packing == Affine || !f.centred {
			err = errors.Join(err, packedPart(stem+".biases", packedBiases, f.scaleType(), groups, size))
		}
		if err != nil {
			return err
		}
	}
	return c.writeHeader()
}

// exact reports whether all matrices are float16 or MLX's affine format exactly.
func (c *Checkpoint) exact() bool {
	quantised := false
	for _, t := range c.Header.Tensors {
		if len(t.Shape) < 2 {
			continue
		}
		if f := forms[t.Type]; !f.affine() && t.Type != F16 {
			return false
		} else if f.affine() {
			quantised = true
		}
	}
	return quantised
}

// dtype is the type of what is not packed: that of the file's matrices, or bfloat16 for those that are quantised.
func (c *Checkpoint) dtype(exact bool) string {
	if exact {
		return "F16"
	}
	seen := map[Type]bool{}
	for _, t := range c.Header.Tensors {
		if len(t.Shape) >= 2 {
			seen[t.Type] = true
		}
	}
	switch {
	case len(seen) == 1 && seen[F32]:
		return "F32"
	case len(seen) == 1 && seen[F16]:
		return "F16"
	}
	return "BF16"
}

func (c *Checkpoint) writeHeader() error {
	entries := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	for name, t := range c.Virtual {
		entries[name] = map[string]any{"dtype": t.DType, "shape": t.Shape, "data_offsets": t.Offset}
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	text = append(text, bytes.Repeat([]byte(" "), (8-len(text)%8)%8)...)
	c.header = append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	return nil
}

// Size is the length of the virtual safetensors file.
func (c *Checkpoint) Size() int64 { return int64(len(c.header)) + c.encoded }

// ReadAt reads from the virtual safetensors file. Whole tensors are converted into p itself.
func (c *Checkpoint) ReadAt(p []byte, offset int64) (n int, err error) {
	if offset < int64(len(c.header)) {
		n = copy(p, c.header[offset:])
	}
	for n < len(p) {
		at := offset + int64(n) - int64(len(c.header))
		i, found := slices.BinarySearchFunc(c.order, at, func(name string, at int64) int {
			t := c.Virtual[name]
			switch {
			case t.Offset[1] <= at:
				return -1
			case t.Offset[0] > at:
				return 1
			}
			return 0
		})
		if !found {
			return n, io.EOF
		}
		t := c.Virtual[c.order[i]]
		into := p[n:]
		if at == t.Offset[0] && int64(len(into)) >= t.Bytes() {
			if err := c.ReadTensor(c.order[i], into[:t.Bytes()]); err != nil {
				return n, err
			}
			n += int(t.Bytes())
			continue
		}
		whole := make([]byte, t.Bytes())
		if err := c.ReadTensor(c.order[i], whole); err != nil {
			return n, err
		}
		n += copy(into, whole[at-t.Offset[0]:])
	}
	return n, nil
}

// WriteTo writes the virtual safetensors file.
func (c *Checkpoint) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c.header)
	written := int64(n)
	for _, name := range c.order {
		if err != nil {
			return written, err
		}
		data := make([]byte, c.Virtual[name].Bytes())
		if err = c.ReadTensor(name, data); err == nil {
			n, err = w.Write(data)
			written += int64(n)
		}
	}
	return written, err
}

// Types names the types of the file's matrices, with how many tensors are of each.
func (h *Header) Types() string {
	counts := map[string]int{}
	for _, t := range h.Tensors {
		if len(t.Shape) > 1 {
			counts[t.Type.String()]++
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s (%d)", name, counts[name]))
	}
	return strings.Join(out, ", ")
}
