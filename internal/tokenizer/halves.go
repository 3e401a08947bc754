package tokenizer

import (
	"bytes"
	"strconv"
)

// wholePairs replaces what JSON can say and UTF-8 cannot, half of a surrogate pair, by U+FFFD, as encoding/json does when it reads a
// string: the library would refuse the text. A model that is cut off in the middle of an emoji leaves such a half in its tool call.
// The data is valid JSON, and is not changed.
func wholePairs(data []byte) []byte {
	if !bytes.Contains(data, []byte(`\ud`)) && !bytes.Contains(data, []byte(`\uD`)) {
		return data
	}
	out := make([]byte, 0, len(data))
	for len(data) > 0 {
		at := bytes.IndexByte(data, '\\')
		if at < 0 {
			break
		}
		out, data = append(out, data[:at]...), data[at:]
		size := 2 // of the escape
		switch first, ok := codeUnit(data); {
		case !ok:
		case first < 0xd800 || first > 0xdfff:
			size = 6
		default:
			size = 6
			if second, ok := codeUnit(data[6:]); ok && first < 0xdc00 && second >= 0xdc00 && second <= 0xdfff {
				size = 12
				break
			}
			out, data = append(out, `\ufffd`...), data[size:]
			continue
		}
		size = min(size, len(data))
		out, data = append(out, data[:size]...), data[size:]
	}
	return append(out, data...)
}

// codeUnit is what an escape of the form \uXXXX at the beginning of data stands for.
func codeUnit(data []byte) (unit uint64, ok bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return unit, err == nil
}
