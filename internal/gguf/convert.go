package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// rows is how many rows a tensor has; a vector is one, or has a value for each row of a matrix with heads.
func (t Tensor) rows(heads int) int {
	n := len(t.Shape)
	switch {
	case n == 0:
		return 1
	case n == 1 && heads > 0:
		return t.Shape[0]
	case t.Shape[n-1] == 0:
		return 0
	}
	return int(t.Elements()) / t.Shape[n-1]
}

const (
	// bytesAtATime is how much of a file is in memory while it is converted, for each processor.
	bytesAtATime = 1 << 20
	// bytesOfHeads is that limit for tensors whose rows of heads are in another order: a head is read whole, and fewer processors work if heads are large.
	bytesOfHeads = 256 << 20
)

// fill is a tensor of the file with the memory for what is made of it. A packed matrix has up to three parts, in the order of packedEnds.
type fill struct {
	part
	out [3][]byte
}

var packedEnds = [...]string{".weight", ".scales", ".biases"}

// ReadTensors converts virtual tensors into memory that is as long as they are, all of them side by side. The parts of a packed matrix
// are made together.
func (c *Checkpoint) ReadTensors(out map[string][]byte) error {
	var fills []fill
	packed := map[string]int{} // where the fill of a packed matrix is
	for _, name := range c.order {
		to, wanted := out[name]
		if !wanted {
			continue
		}
		p := c.parts[name]
		if int64(len(to)) != c.Virtual[name].Bytes() {
			return fmt.Errorf("tensor %q is not there in %d bytes", name, len(to))
		}
		if p.kind == plain {
			fills = append(fills, fill{part: p, out: [3][]byte{to}})
			continue
		}
		end := strings.LastIndexByte(name, '.')
		at, known := packed[name[:end]]
		if !known {
			at = len(fills)
			packed[name[:end]] = at
			fills = append(fills, fill{part: p})
		}
		fills[at].out[slices.Index(packedEnds[:], name[end:])] = to
	}
	return c.fill(fills)
}

// ReadTensor converts a virtual tensor into out, which is as long as it.
func (c *Checkpoint) ReadTensor(name string, out []byte) error {
	p, ok := c.parts[name]
	if !ok || int64(len(out)) != c.Virtual[name].Bytes() {
		return fmt.Errorf("tensor %q is not there in %d bytes", name, len(out))
	}
	if p.kind == plain {
		return c.fill([]fill{{part: p, out: [3][]byte{out}}})
	}
	return c.readPacked(p, name, out)
}

// readPacked makes a part of a packed matrix. Scales and biases are made along with the weights, for the file is read for each of them
// otherwise, and kept until they are asked for. Weights are too large for that.
func (c *Checkpoint) readPacked(p part, name string, out []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.given == nil {
		c.given = map[string]bool{}
	}
	c.given[name] = true
	if made, ok := c.made[name]; ok {
		copy(out, made)
		delete(c.made, name)
		return nil
	}
	stem := name[:strings.LastIndexByte(name, '.')]
	f := fill{part: p}
	for i, end := range packedEnds {
		if sibling := stem + end; sibling == name {
			f.out[i] = out
		} else if t, ok := c.Virtual[sibling]; ok && i > 0 && !c.given[sibling] { // nobody will ask for those that were given
			if c.made == nil {
				c.made = map[string][]byte{}
			}
			f.out[i] = make([]byte, t.Bytes())
			c.made[sibling] = f.out[i]
		}
	}
	err := c.fill([]fill{f})
	if err != nil {
		c.made = nil
	}
	return err
}

// rowsOf are so many rows of a tensor, from one on.
type rowsOf struct {
	*fill
	from, n int
}

// fill reads the tensors of the file and converts them, on all processors: each takes the next rows when it is done with some.
func (c *Checkpoint) fill(fills []fill) error {
	var jobs []rowsOf
	largest := 0 // bytes of a job
	for i := range fills {
		f := &fills[i]
		rows := f.source.rows(f.heads)
		if rows == 0 || f.source.Bytes() == 0 {
			continue
		}
		inRow := int(f.source.Bytes()) / rows
		step := max(1, bytesAtATime/max(inRow, 1))
		if f.heads > 0 {
			step = rows / f.heads // a head's rows are in another order, and read together
		}
		for from := 0; from < rows; from += step {
			jobs = append(jobs, rowsOf{f, from, min(step, rows-from)})
		}
		if !c.unchanged(f.part) || f.heads > 0 {
			largest = max(largest, min(step, rows)*inRow)
		}
	}
	var next atomic.Int64
	var wait sync.WaitGroup
	var once sync.Once
	var failure error
	for range min(runtime.GOMAXPROCS(0), len(jobs), max(1, bytesOfHeads/max(1, largest))) {
		wait.Go(func() {
			buffer, scratch := make([]byte, largest), make([]float32, 256)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				if err := c.do(jobs[i], buffer, scratch); err != nil {
					once.Do(func() { failure = fmt.Errorf("tensor %q: %w", jobs[i].source.Name, err) })
					next.Store(int64(len(jobs)))
				}
			}
		})
	}
	wait.Wait()
	return failure
}

// do reads some rows and converts them. buffer has room for them, scratch for a block's values.
func (c *Checkpoint) do(j rowsOf, buffer []byte, scratch []float32) error {
	rows := j.source.rows(j.heads)
	inRow := int(j.source.Bytes()) / rows
	var out [3][]byte
	for i, all := range j.out {
		if size := len(all) / rows; all != nil {
			out[i] = all[j.from*size : (j.from+j.n)*size]
		}
	}
	offset := j.source.Offset + int64(j.from)*int64(inRow)
	if c.unchanged(j.part) && j.heads == 0 {
		_, err := c.files[j.source.File].ReadAt(out[0], offset)
		return err
	}
	in := buffer[:j.n*inRow]
	if _, err := c.files[j.source.File].ReadAt(in, offset); err != nil {
		return err
	}
	if j.heads == 0 {
		c.convertRows(j.part, in, out, scratch)
		return nil
	}
	for row := range j.n { // the two halves that rotate together lie side by side in the file
		source := row%(j.n/2)*2 + row/(j.n/2)
		var one [3][]byte
		for i, all := range out {
			if size := len(all) / j.n; all != nil {
				one[i] = all[row*size : (row+1)*size]
			}
		}
		c.convertRows(j.part, in[source*inRow:(source+1)*inRow], one, scratch)
	}
	return nil
}

func (c *Checkpoint) convertRows(p part, in []byte, out [3][]byte, scratch []float32) {
	if p.kind == plain {
		c.convert(p, in, out[0], scratch)
		return
	}
	convertPacked(p, in, out[0], out[1], out[2])
}

// unchanged reports whether the bytes of a tensor are those in the file.
func (c *Checkpoint) unchanged(p part) bool {
	return p.kind == plain && p.minus == 0 && map[Type]string{F32: "F32", F16: "F16", BF16: "BF16"}[p.source.Type] == c.DType
}

// convert makes the values of whole blocks.
func (c *Checkpoint) convert(p part, in, out []byte, scratch []float32) {
	l := layouts[p.source.Type]
	if c.unchanged(p) {
		copy(out, in)
		return
	}
	unpack := unpackerOf(p.source.Type)
	for at := 0; at < len(in); at += l.bytes {
		values := scratch[:l.values]
		unpack(in[at:at+l.bytes], values)
		if p.minus != 0 {
			for i := range values {
				values[i] -= p.minus
			}
		}
		out = putFloats(out, values, c.DType)
	}
}

// putFloats writes values in a type and returns what is after them.
func putFloats(out []byte, values []float32, dtype string) []byte {
	switch dtype {
	case "F32":
		for i, v := range values {
			binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
		}
		return out[4*len(values):]
	case "F16":
		for i, v := range values {
			binary.LittleEndian.PutUint16(out[2*i:], toFloat16(v))
		}
		return out[2*len(values):]
	}
	if v := values[0]; len(values)%8 != 0 || v != v {
		for _, v := range values {
			binary.LittleEndian.PutUint16(out, toBFloat16(v))
			out = out[2:]
		}
		return out
	}
	// A block whose first value is a number has no NaN but the one that the processor makes of infinity times zero, and rounding
	// that one gives a NaN again. So single values need no check.
	for ; len(values) >= 8; out, values = out[16:], values[8:] {
		v := (*[8]float32)(values)
		binary.LittleEndian.PutUint64(out, rounded(v[0])|rounded(v[1])<<16|rounded(v[2])<<32|rounded(v[3])<<48)
		binary.LittleEndian.PutUint64(out[8:], rounded(v[4])|rounded(v[5])<<16|rounded(v[6])<<32|rounded(v[7])<<48)
	}
	return out
}

// rounded is toBFloat16 for numbers.
func rounded(f float32) uint64 {
	b := math.Float32bits(f)
	return uint64((b + 0x7fff + b>>16&1) >> 16)
}

// convertPacked makes what there is room for of the weights, scales and biases of whole blocks.
func convertPacked(p part, in, weights, scales, biases []byte) {
	f, l := p.form, layouts[p.source.Type]
	if p.source.Type == Q8_0 && weights != nil && scales != nil && biases == nil {
		convertQ8_0(in, weights, scales)
		return
	}
	groups, size := l.values/f.group, l.values*f.bits/8
	var q [256]byte
	var scale, bias [16]float32
	for ; len(in) > 0; in = in[l.bytes:] {
		if weights != nil {
			if f.packed != nil {
				f.packed(in, weights)
			} else {
				f.quants(in, q[:])
				putBits(weights[:size:size], q[:l.values], f.bits)
			}
			weights = weights[size:]
		}
		if f.first && biases == nil { // the scale lies in the block as it is kept
			if scales != nil {
				copy(scales[:2], in)
				scales = scales[2:]
			}
			continue
		}
		f.scales(in, scale[:], bias[:])
		if scales != nil {
			scales = putFloats(scales, scale[:groups], f.scaleType())
		}
		if biases == nil {
			continue
		}
		if f.centred {
			for i := range groups {
				bias[i] = -f.middle() * scale[i]
			}
		}
		biases = putFloats(biases, bias[:groups], f.scaleType())
	}
}

// convertQ8_0 is convertPacked for the type of most large tables: a block is a scale and 32 bytes, which lie in place already.
func convertQ8_0(in, weights, scales []byte) {
	for len(in) >= 34 && len(weights) >= 32 && len(scales) >= 2 {
		b, q := (*[34]byte)(in), (*[32]byte)(weights)
		scales[0], scales[1] = b[0], b[1]
		for i := 0; i < 32; i += 8 {
			binary.LittleEndian.PutUint64(q[i:], binary.LittleEndian.Uint64(b[2+i:])^signs)
		}
		in, weights, scales = in[34:], weights[32:], scales[2:]
	}
}
