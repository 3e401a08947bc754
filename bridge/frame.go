package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/vmihailenco/msgpack/v5"
)

// MaxFrame is the largest frame that either side accepts, in bytes.
const MaxFrame = 64 << 20

// ErrFrame is wrapped by errors about bytes that are no frame. What follows them on the pipe cannot be
// trusted, so the session is over.
var ErrFrame = errors.New("bridge: broken frame")

// encodeFrame is a length of 4 bytes, big endian, and a msgpack map.
func encodeFrame(message any) ([]byte, error) {
	body, err := msgpack.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("bridge: encode: %w", err)
	}
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes to send; the limit is %d", ErrFrame, len(body), MaxFrame)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	return append(frame, body...), nil
}

// readFrame reads one message. The length is checked before memory is set aside for it. At the end of
// the stream between two frames it returns io.EOF.
func readFrame(r io.Reader) (*message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: cut off in a frame's length", ErrFrame)
		}
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length > MaxFrame {
		return nil, fmt.Errorf("%w: a length of %d bytes; the limit is %d (is something printing to the worker's pipe?)", ErrFrame, length, MaxFrame)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("%w: cut off in a frame of %d bytes", ErrFrame, length)
	}
	if err := checkNesting(body); err != nil {
		return nil, err
	}
	m := &message{}
	if err := msgpack.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return m, nil
}
