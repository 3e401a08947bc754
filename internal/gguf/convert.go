package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
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
	rows := p.source.rows(p.heads)
	if rows == 0 || len(out) == 0 {
		return nil
	}
	inRow := int(p.source.Bytes()) / rows
	outRow := len(out) / rows
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
				c.convert(p, buffer[:n*inRow], out[row*outRow:(row+n)*outRow], scratch)
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
	if p.kind != plain {
		convertPacked(p, in, out)
		return
	}
	same := map[Type]string{F32: "F32", F16: "F16", BF16: "BF16"}[p.source.Type] == c.DType
	if same && p.minus == 0 {
		copy(out, in)
		return
	}
	for at := 0; at < len(in); at += l.bytes {
		values := scratch[:l.values]
		l.unpack(in[at:at+l.bytes], values)
		if p.minus != 0 {
			for i := range values {
				values[i] -= p.minus
			}
		}
		out = putFloats(out, values, c.DType)
	}
}

// putFloats writes values in a type and returns what is behind them.
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

// convertPacked makes the weights, scales or biases of whole blocks.
func convertPacked(p part, in, out []byte) {
	f, l := p.form, layouts[p.source.Type]
	if p.kind == packedWeight {
		var q [256]byte
		for ; len(in) > 0; in = in[l.bytes:] {
			f.quants(in, q[:])
			n := l.values * f.bits / 8
			putBits(out[:n], q[:l.values], f.bits)
			out = out[n:]
		}
		return
	}
	var scales, biases [16]float32
	for groups := l.values / f.group; len(in) > 0; in = in[l.bytes:] {
		f.scales(in, scales[:], biases[:])
		values := scales[:groups]
		if p.kind == packedBiases {
			values = biases[:groups]
			for i := range values {
				if f.centred {
					values[i] = -f.middle() * scales[i]
				}
			}
		}
		out = putFloats(out, values, f.scaleType())
	}
}
