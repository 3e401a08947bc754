package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
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

// bytesAtATime is how much of a file is in memory while it is converted, for each processor.
const bytesAtATime = 1 << 20

// ReadTensor converts a virtual tensor into out, which is as long as it.
func (c *Checkpoint) ReadTensor(name string, out []byte) error {
	p, ok := c.parts[name]
	if !ok || int64(len(out)) != c.Virtual[name].Bytes() {
		return fmt.Errorf("tensor %q is not there in %d bytes", name, len(out))
	}
	if p.kind == plain {
		return c.readRows(p, func(row, n int, in []byte, scratch []float32) {
			size := len(out) / p.source.rows(p.heads)
			c.convert(p, in, out[row*size:(row+n)*size], scratch)
		})
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
	var parts [3][]byte // weight, scales, biases
	for i, end := range [...]string{".weight", ".scales", ".biases"} {
		if sibling := stem + end; sibling == name {
			parts[i] = out
		} else if t, ok := c.Virtual[sibling]; ok && i > 0 && !c.given[sibling] { // nobody will ask for those that were given
			if c.made == nil {
				c.made = map[string][]byte{}
			}
			parts[i] = make([]byte, t.Bytes())
			c.made[sibling] = parts[i]
		}
	}
	rows := p.source.rows(p.heads)
	err := c.readRows(p, func(row, n int, in []byte, _ []float32) {
		var some [3][]byte
		for i, all := range parts {
			if size := len(all) / rows; all != nil {
				some[i] = all[row*size : (row+n)*size]
			}
		}
		convertPacked(p, in, some[0], some[1], some[2])
	})
	if err != nil {
		c.made = nil
	}
	return err
}

// readRows reads the rows of a tensor and has them converted: n rows from row on at a time, on all processors.
func (c *Checkpoint) readRows(p part, convert func(row, n int, in []byte, scratch []float32)) error {
	rows := p.source.rows(p.heads)
	if rows == 0 || p.source.Bytes() == 0 {
		return nil
	}
	inRow := int(p.source.Bytes()) / rows
	step := max(1, bytesAtATime/max(inRow, 1))
	if p.heads > 0 {
		step = 1
	}
	var wait sync.WaitGroup
	var once sync.Once
	var failure error
	next := make(chan int)
	for range min(runtime.GOMAXPROCS(0), (rows+step-1)/step) {
		wait.Go(func() {
			buffer := make([]byte, min(step, rows)*inRow)
			scratch := make([]float32, 256)
			for row := range next {
				n := min(step, rows-row)
				from := c.sourceRow(p, row, rows)
				if _, err := c.files[p.source.File].ReadAt(buffer[:n*inRow], p.source.Offset+int64(from)*int64(inRow)); err != nil {
					once.Do(func() { failure = fmt.Errorf("tensor %q: %w", p.source.Name, err) })
					continue
				}
				convert(row, n, buffer[:n*inRow], scratch)
			}
		})
	}
	for row := 0; row < rows; row += step {
		next <- row
	}
	close(next)
	wait.Wait()
	return failure
}

// sourceRow is where the file keeps a row: the two halves that rotate together lie side by side there.
func (c *Checkpoint) sourceRow(p part, row, rows int) int {
	if p.heads == 0 {
		return row
	}
	dim := rows / p.heads
	head, within := row/dim, row%dim
	return head*dim + within%(dim/2)*2 + within/(dim/2)
}

// convert makes the values of whole blocks.
func (c *Checkpoint) convert(p part, in, out []byte, scratch []float32) {
	l := layouts[p.source.Type]
	same := map[Type]string{F32: "F32", F16: "F16", BF16: "BF16"}[p.source.Type] == c.DType
	if same && p.minus == 0 {
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
	// that leaves it one. So nothing has to be asked of each value.
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
	groups, size := l.values/f.group, l.values*f.bits/8
	var q [256]byte
	var scale, bias [16]float32
	for ; len(in) > 0; in = in[l.bytes:] {
		if weights != nil {
			f.quants(in, q[:])
			putBits(weights[:size:size], q[:l.values], f.bits)
			weights = weights[size:]
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
